"""Adding a class to a registry of many: by its name, and by five example boxes, from the words and images to the disk.

By name, the peer is what a class head file asks for: all of the vocabulary embedded again and the file written. Since
that takes hours on a CPU, it is timed on a ``--sample`` of the classes and scaled; the line says so. By boxes, the peer
is open_clip's own way: preprocess and encode_image, crop by crop. The vectors of both are compared before figures are
printed. Weights may be random: speed does not depend on them. The CLIP is loaded and has run once before.

    python benchmarks/class_adding.py [--classes 1203] [--pretrained untrained:ViT-B-32-quickgelu] [--device cuda]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from figures import print_figure
from PIL import Image

from ovd.clip.crops import CropRecipe, crop_windows
from ovd.clip.text import class_embeddings
from ovd.clip.towers import ClipModel, load_clip
from ovd.fewshot.shots import Shot, ShotSet
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry
from ovd.vocabulary.classes import LVIS_NAMES
from ovd.vocabulary.prompts import STYLES
from pipelines.classes.adding import box_vectors, text_classes
from pipelines.region_settings import Settings

STYLE = STYLES["vild"]
SIZE = (640, 480)


def filled(folder: Path, clip: ClipModel, classes: int) -> ClassRegistry:
    """A registry of so many classes with random vectors."""
    registry = ClassRegistry(folder)
    names = [f"{name} {number // len(LVIS_NAMES)}".removesuffix(" 0") for number, name in
             ((number, LVIS_NAMES[number % len(LVIS_NAMES)]) for number in range(classes))]
    rows = F.normalize(torch.randn(classes, 1, clip.embed_dim, generator=torch.Generator().manual_seed(0)), dim=-1)
    registry.add(ClassHead(tuple(names), rows, scale=clip.logit_scale, stats={"clip": clip.fingerprint}))
    return registry


def photos(folder: Path, count: int) -> ShotSet:
    """Images of 640 x 480 as files, with a box in each."""
    rng = np.random.default_rng(0)
    shots = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
        x, y = rng.integers(0, 200, 2).tolist()
        shots.append(Shot(f"{number}.jpg", number + 1, (x, y, x + 220, y + 190)))
    return ShotSet({"gadget": tuple(shots)})


@torch.no_grad()
def open_clips_way(clip: ClipModel, shots: ShotSet, folder: Path, recipe: CropRecipe) -> torch.Tensor:
    """The prototype of the shots, one crop at a time."""
    preprocess = open_clip.image_transform(clip.image_size, is_train=False, mean=clip.mean, std=clip.std)
    rows = []
    for shot in shots["gadget"]:
        image = Image.open(folder / shot.image).convert("RGB")
        raw = 0
        for window in crop_windows(np.array([shot.box]), *SIZE, recipe)[0].tolist():
            raw = raw + clip.model.encode_image(preprocess(image.crop(window))[None].to(clip.device)).float().cpu()
        rows.append(F.normalize(raw[0], dim=0))
    return F.normalize(torch.stack(rows).mean(0), dim=0)


def median(work: Callable[[int], object], rounds: int) -> float:
    """Seconds of ``work(round)``, after one that does not count."""
    times = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        work(number)
        if clip_is_on_gpu():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def clip_is_on_gpu() -> bool:
    """Whether there may be work under way on a GPU."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Print the two figures."""
    clip = load_clip(args.pretrained, device=args.device, allow_untrained=True)
    registry = filled(folder / "classes", clip, args.classes)
    what = f"{args.pretrained.removeprefix('untrained:')}, {args.device}, a registry of {args.classes}"

    def by_name(number: int) -> None:
        registry.add(text_classes(clip, [f"new gadget {number}"]))

    def again(number: int) -> None:
        names = [*LVIS_NAMES[:args.sample - 1], f"new gadget {number}"]
        class_embeddings(clip, names, STYLE).save(folder / "head.safetensors")

    seconds = median(by_name, args.rounds)
    peer = median(again, 1) * (args.classes + 1) / args.sample
    print_figure(f"adding a class by name, {len(STYLE.templates)} prompts, {what}", seconds, "s",
                 f"all classes embedded again (scaled from {args.sample})", peer)

    shots, crops = photos(folder, args.boxes), Settings(args.pretrained, CropRecipe())

    def by_boxes(number: int) -> None:
        registry.add(box_vectors(clip, crops, ShotSet({f"boxed {number}": shots["gadget"]}), folder).head())

    seconds = median(by_boxes, args.rounds)
    peer = median(lambda number: open_clips_way(clip, shots, folder, crops.recipe), args.rounds)
    row = F.normalize(registry.get("boxed 0").weights[0, 0], dim=0)
    if F.cosine_similarity(row, open_clips_way(clip, shots, folder, crops.recipe), dim=0) < 0.999:
        raise SystemExit("another vector than open_clip's own way gives")
    print_figure(f"adding a class by {args.boxes} boxes of {SIZE[0]} x {SIZE[1]} images, {what}", seconds, "s",
                 "open_clip's preprocess and encode_image, crop by crop", peer)


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="untrained:ViT-B-32-quickgelu", help="CLIP (%(default)s)")
    parser.add_argument("--classes", type=int, default=1203, help="in the registry before (%(default)s)")
    parser.add_argument("--boxes", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--sample", type=int, default=8, help="classes that the peer is timed on (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu",
                        help="(%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


if __name__ == "__main__":
    main()
