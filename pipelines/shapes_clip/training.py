"""The training of ``ovd shapes-clip``: captions, crops, and a contrastive loss by kinds of captions."""

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ovd.clip.tokenizer import RemappedTokenizer, used_bpe_ids
from ovd.clip.towers import save_described
from ovd.data.shapes.dataset import scene
from ovd.data.shapes.world import COLOURS, SYNONYMS, world_classes
from ovd.stores.atomic import atomic_write
from ovd.vocabulary.prompts import STYLES, prompts

SCENE_SIZE = 192
TRAINING_SUBSET = 0  # in the scenes' seed; the benchmark's subsets have other numbers
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": 64},
    "text_cfg": {"context_length": 32, "width": 64, "heads": 4, "layers": 2},
}

# What a caption may leave out. Each kind is a classification among the captions of that kind, so that words keep their
# meaning apart from the class names they stand in.
KINDS = (("pattern", "colour", "shape"), ("colour", "shape"), ("pattern", "shape"), ("shape",))


@dataclass
class Captions:
    """Texts of every kind of caption, and which text of a kind describes which class.

    Attributes:
        texts: Per kind, per distinct description, the texts to draw from.
        targets: Per kind, long ``[C]``: the description of each class.
    """

    texts: list[list[list[str]]]
    targets: list[Tensor]

    @classmethod
    def of_world(cls) -> "Captions":
        texts, targets = [], []
        for kind in KINDS:
            names = [" ".join(getattr(c, part) for part in kind) for c in world_classes()]
            distinct = sorted(set(names))
            texts.append([_wordings(name) for name in distinct])
            targets.append(torch.tensor([distinct.index(name) for name in names]))
        return cls(texts, targets)

    def draw(self, kind: int, rng: np.random.Generator) -> list[str]:
        """One text per description of ``kind``."""
        return [wordings[int(rng.integers(len(wordings)))] for wordings in self.texts[kind]]


def _wordings(name: str) -> list[str]:
    """Every template with the name and with one word replaced by its synonym."""
    names = [name, *(name.replace(word, other) for word, other in SYNONYMS.items() if word in name.split())]
    texts = [text for n in names for style in ("vild", "vild74") for text in prompts(n, STYLES[style])]
    return texts + names


class CropDataset(Dataset):
    """Objects of rendered scenes, cut out with a jittered box as proposals would, at 1x or 1.5x.

    An item is ``(pixels float32 [3, S, S] normalised, class index)``, a function of seed, epoch and index.
    """

    def __init__(self, scenes: list[tuple[np.ndarray, list[tuple[int, tuple]]]], size: int, seed: int, length: int):
        self.images = [image for image, _ in scenes]
        self.objects = [(i, label, box) for i, (_, found) in enumerate(scenes) for label, box in found]
        self.size, self.seed, self.length = size, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rng = np.random.default_rng([self.seed, 5, index])
        image_index, label, (x1, y1, x2, y2) = self.objects[int(rng.integers(len(self.objects)))]
        image = self.images[image_index]
        width, height = x2 - x1, y2 - y1
        shift = rng.uniform(-0.1, 0.1, 2) * (width, height)
        grow = np.exp(rng.uniform(-0.12, 0.12, 2)) * (1.5 if rng.random() < 0.5 else 1.0)
        centre = np.array([x1 + x2, y1 + y2]) / 2 + shift
        half = np.array([width, height]) * grow / 2
        left, top = np.maximum(np.round(centre - half), 0).astype(int)
        right, bottom = np.minimum(np.round(centre + half), image.shape[1::-1]).astype(int)
        crop = Image.fromarray(image[top:max(bottom, top + 2), left:max(right, left + 2)])
        scale = self.size / min(crop.size)
        crop = crop.resize([max(self.size, round(side * scale)) for side in crop.size], Image.Resampling.BICUBIC)
        dx, dy = (crop.width - self.size) // 2, (crop.height - self.size) // 2
        pixels = np.asarray(crop, np.float32)[dy:dy + self.size, dx:dx + self.size] / 255
        pixels = (pixels - np.float32(OPENAI_MEAN)) / np.float32(OPENAI_STD)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), label


def _scene_job(job: tuple[int, int]) -> tuple[np.ndarray, list[tuple[int, tuple]]]:
    seed, index = job
    image, objects = scene(seed, TRAINING_SUBSET, index, SCENE_SIZE, weighted=False)
    return image, [(found.category.id - 1, found.box) for found in objects]


def train(out: Path, *, scenes: int, iterations: int, batch_size: int, learning_rate: float, seed: int,
          bf16: bool, workers: int) -> None:
    """Train and write the weights (half precision, with their configuration) to ``out``."""
    jobs = [(seed, i) for i in range(scenes)]
    with ProcessPoolExecutor() as pool:
        rendered = list(tqdm(pool.map(_scene_job, jobs, chunksize=32), total=scenes, desc="rendering", unit="scene"))
    captions = Captions.of_world()
    every_text = [text for kind in captions.texts for wordings in kind for text in wordings]
    bpe_ids = used_bpe_ids([*every_text, *COLOURS])
    tokenizer = RemappedTokenizer(bpe_ids, MODEL["text_cfg"]["context_length"])
    config = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "vocab_size": tokenizer.vocab_size}}
    tokens = dict(zip(every_text, tokenizer(every_text)))

    torch.manual_seed(seed)
    model = CLIP(**config)
    model.visual.init_parameters()
    model.visual.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                  lr=learning_rate, betas=(0.9, 0.98))
    warmup = max(1, iterations // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(
        (i + 1) / warmup, 0.5 * (1 + math.cos(math.pi * max(0, i - warmup) / max(1, iterations - warmup)))))
    crops = CropDataset(rendered, config["vision_cfg"]["image_size"], seed, iterations * batch_size)
    loader = DataLoader(crops, batch_size, num_workers=workers, prefetch_factor=4 if workers else None)
    rng = np.random.default_rng([seed, 6])
    progress = tqdm(loader, desc="training", unit="step", mininterval=2)
    for pixels, labels in progress:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            images = model.encode_image(pixels.contiguous(memory_format=torch.channels_last))
        images = F.normalize(images.float(), dim=1)
        scale = model.logit_scale.exp().clamp(max=100)
        loss, correct = 0.0, None
        for kind, weight in ((0, 1.0), (int(rng.integers(1, len(KINDS))), 0.3)):
            texts = torch.stack([tokens[text] for text in captions.draw(kind, rng)])
            logits = scale * images @ F.normalize(model.encode_text(texts), dim=1).T
            targets = captions.targets[kind][labels]
            loss = loss + weight * (_image_to_text(logits, targets) + _text_to_image(logits, targets)) / 2
            correct = (logits.argmax(1) == targets).float().mean() if correct is None else correct
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss became {loss.item()} at step {progress.n}; lower --learning-rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress.n % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", batch_accuracy=f"{correct.item():.3f}", refresh=False)
    notes = {"scenes": scenes, "iterations": iterations, "batch_size": batch_size, "learning_rate": learning_rate,
             "seed": seed, "bf16": bf16, "classes": len(world_classes())}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as temporary:
        save_described(temporary, model.eval(), config, bpe_ids, notes)


def _image_to_text(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each image over the descriptions; ``logits`` ``[N, K]``, ``targets`` long ``[N]``."""
    return F.cross_entropy(logits, targets, label_smoothing=0.05)


def _text_to_image(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each present description over the batch's images, all images of it being right answers."""
    positive = torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)
    counts = positive.sum(0)
    per_text = -(F.log_softmax(logits, dim=0) * positive).sum(0) / counts.clamp(min=1)
    return per_text[counts > 0].mean()
