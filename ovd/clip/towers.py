"""CLIP's text and image towers by name or file: any model of open_clip, or a self-describing safetensors file."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovd.clip.text_tower import TextEncoder
from ovd.clip.tokenizer import RemappedTokenizer
from ovd.engine.public_weights import NotFetched
from ovd.errors import UserError, nearest
from ovd.shipped import PRETRAINED

SHAPES_WEIGHTS = PRETRAINED / "shapes_clip.safetensors"

# OpenAI's names and release files. Their weights need the quick-GELU variant of an architecture: with the plain one
# they load without complaint and give wrong embeddings.
OPENAI_NAMES = {
    name.replace("-quickgelu", ""): name for name in open_clip.list_models() if name.endswith("-quickgelu")
}
OPENAI_ALIASES = {
    "ViT-B/32": "ViT-B-32", "ViT-B/16": "ViT-B-16", "ViT-L/14": "ViT-L-14", "ViT-L/14@336px": "ViT-L-14-336",
    "RN50": "RN50", "RN101": "RN101", "RN50x4": "RN50x4", "RN50x16": "RN50x16", "RN50x64": "RN50x64",
}


@dataclass
class ClipModel:
    """A frozen CLIP with what is needed to feed it.

    Attributes:
        name: Where it came from, for people.
        model: The open_clip module, in ``eval`` mode.
        tokenizer: Callable ``list[str] -> long [N, L]``. One that has to be downloaded (SigLIP) is, when first used.
        image_size: Side of the square input in pixels.
        mean, std: Per RGB channel, for pixel values in 0..1.
        resize_mode: How the model's own preprocessing makes an image square: ``"shortest"`` (short side, then the
            centre), ``"squash"`` (both sides: SigLIP) or ``"longest"``.
        fingerprint: ``sha256:...`` over the layers' kinds and the names and values of all weights.
        untrained: Whether the weights are random (allowed only on request; artefacts made with it are marked).
    """

    name: str
    model: CLIP
    tokenizer: object
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    untrained: bool
    device: torch.device
    dtype: torch.dtype = torch.float32
    resize_mode: str = "shortest"

    @property
    def embed_dim(self) -> int:
        """Width D of the shared embedding space."""
        for tower in (self.model.visual, getattr(self.model, "text", None)):
            if width := getattr(tower, "output_dim", None):
                return int(width)
        projection = self.model.text_projection  # a timm image tower without a text module
        return projection.out_features if isinstance(projection, torch.nn.Linear) else projection.shape[1]

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature, as a factor on cosines."""
        return float(self.model.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float | None:
        """What is added to the scaled cosine, which then goes through a sigmoid (SigLIP, Zhai et al., ICCV 2023).

        None for a model that compares by softmax.
        """
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else float(bias.detach())

    @property
    def own_crop(self) -> str:
        """The kind of :class:`ovd.clip.crops.CropRecipe` that is the model's own preprocessing."""
        return "warp" if self.resize_mode == "squash" else "clip"

    def text_encoder(self, shared: Sequence[str] = ()) -> TextEncoder:
        """What embeds many lists of texts, whose beginnings are often those of the texts ``shared``."""
        return TextEncoder(self.model, self.tokenizer, self.device, shared)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Raw (not normalised) text embeddings, float32 ``[N, D]`` on the CPU."""
        return self.text_encoder()(texts) if texts else torch.zeros(0, self.embed_dim)

    @torch.no_grad()  # not inference mode, which torch.compile does not go with
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Raw (not normalised) image embeddings, float32 ``[N, D]`` on the model's device.

        Args:
            pixels: ``[N, 3, image_size, image_size]``, already normalised with ``mean`` and ``std``.
        """
        return self.model.encode_image(pixels.to(self.device, self.dtype), normalize=False).float()  # CoCa's default


def load_clip(pretrained: str, *, model: str | None = None, device: str | torch.device = "cpu",
              precision: str = "fp32", allow_untrained: bool = False) -> ClipModel:
    """Load a CLIP.

    Args:
        pretrained: One of

            - ``"shapes"``: the small model of the embedded benchmark;
            - ``"ViT-B/32"``, ``"RN50"``, ...: OpenAI's weights, with the quick-GELU architecture that they need;
            - ``"NAME"`` or ``"NAME:TAG"``: an open_clip model (``"ViT-B-32:laion2b_s34b_b79k"``); the tag
              defaults to its first;
            - a file: safetensors whose metadata describe the model, or any weights file together with ``model``
              (OpenAI's release files are known by their names);
            - ``"untrained:NAME"``: random weights (seeded), only with ``allow_untrained``.
        model: Architecture of a weights file.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``; the embeddings come back as float32 in any case.

    Raises:
        UserError: Unknown name, missing or unreadable file, weights that do not fit, or untrained without permission.
    """
    if precision not in ("fp32", "fp16", "bf16"):
        raise UserError(f"precision {precision!r} is not one of fp32, fp16, bf16")
    torch_dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    untrained = pretrained.startswith("untrained:")
    if untrained:
        if not allow_untrained:
            raise UserError(f"{pretrained}: random weights give meaningless embeddings; pass --allow-untrained to try "
                            "the commands with them, or name trained weights with --pretrained")
        clip, tokenizer = _untrained(pretrained.partition(":")[2])
    elif pretrained == "shapes":
        clip, tokenizer = _from_described_file(SHAPES_WEIGHTS)
    elif _looks_like_file(pretrained):
        clip, tokenizer = _from_file(Path(pretrained), model)
    else:
        clip, tokenizer = _from_name(pretrained)
    digest = _weights_digest(clip)
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    size = preprocess["size"]
    exact = {name: value.detach().clone() for name, value in clip.named_parameters() if name.startswith("logit_")}
    clip = clip.eval().requires_grad_(False).to(device=device, dtype=torch_dtype)
    for name, value in exact.items():  # a class head has the same scale and bias whatever the precision
        getattr(clip, name).data = value.to(device)
    return ClipModel(
        name=pretrained, model=clip, tokenizer=tokenizer, image_size=size if isinstance(size, int) else int(size[0]),
        mean=tuple(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN),  # a model of our own does not say
        std=tuple(preprocess.get("std") or open_clip.OPENAI_DATASET_STD), fingerprint=digest, untrained=untrained,
        device=torch.device(device), dtype=torch_dtype, resize_mode=preprocess.get("resize_mode", "shortest"),
    )


def save_described(path: Path, clip: CLIP, config: dict, bpe_ids: list[int] | None, notes: dict) -> None:
    """Write weights (half precision) with the model's configuration as metadata, so that the file loads by itself.

    Args:
        config: Keyword arguments of :class:`open_clip.CLIP` (``embed_dim``, ``vision_cfg``, ``text_cfg``).
        bpe_ids: Known BPE ids of a :class:`RemappedTokenizer`, or None for CLIP's full vocabulary.
        notes: Anything else worth keeping (training settings, figures reached).
    """
    from safetensors.torch import save_file

    weights = {k: v.detach().cpu().half().contiguous() if v.is_floating_point() else v.cpu()
               for k, v in clip.state_dict().items()}
    metadata = {"open_clip_config": json.dumps(config, sort_keys=True), "bpe_ids": json.dumps(bpe_ids),
                "notes": json.dumps(notes, sort_keys=True)}
    save_file(weights, path, metadata)


def _looks_like_file(pretrained: str) -> bool:
    path = Path(pretrained)
    return path.is_file() or path.suffix in (".safetensors", ".pt", ".pth", ".bin")


def _from_described_file(path: Path) -> tuple[CLIP, object]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check --pretrained") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None
    if "open_clip_config" not in metadata:
        raise UserError(f"{path}: does not say which model it belongs to; name the architecture with --model")
    config = json.loads(metadata["open_clip_config"])
    clip = CLIP(**config)
    bpe_ids = json.loads(metadata.get("bpe_ids", "null"))
    length = config["text_cfg"].get("context_length", 77)
    tokenizer = RemappedTokenizer(bpe_ids, length) if bpe_ids else open_clip.SimpleTokenizer(context_length=length)
    try:
        clip.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: weights do not fit their own configuration ({reason})") from None
    return clip, tokenizer


def _from_file(path: Path, architecture: str | None) -> tuple[CLIP, object]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check --pretrained")
    if architecture is None and path.suffix == ".safetensors":
        return _from_described_file(path)
    if architecture is None:
        architecture = OPENAI_NAMES.get(path.stem)
    if architecture is None:
        raise UserError(f"{path}: does not say which model it belongs to; name the architecture with --model")
    _check_name(architecture)
    try:
        with tempfile.TemporaryDirectory(prefix="clip-") as folder:
            clip = open_clip.create_model(architecture, pretrained=str(_unarchived(path, Path(folder))),
                                          force_preprocess_cfg=_usual(architecture))
    except Exception as error:  # open_clip and torch raise many kinds for a file that does not fit
        raise UserError(f"{path}: not weights of {architecture} ({_first_line(error)})") from None
    return clip, _tokenizer(architecture)


def _unarchived(path: Path, folder: Path) -> Path:
    """The file itself, or one in ``folder`` with the weights of a TorchScript archive, which OpenAI's releases are.

    open_clip reads nothing but weights, so it refuses archives. Loading one runs no Python.
    """
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as file:
        if not any(name.endswith("/constants.pkl") for name in file.namelist()):
            return path
    weights = torch.jit.load(path, map_location="cpu").state_dict()
    numbers = ("input_resolution", "context_length", "vocab_size")
    torch.save({name: value for name, value in weights.items() if name not in numbers}, folder / "weights.pt")
    return folder / "weights.pt"


def _from_name(name: str) -> tuple[CLIP, object]:
    architecture, _, tag = name.partition(":")
    if name in OPENAI_ALIASES:
        architecture = OPENAI_ALIASES[name]
        architecture, tag = OPENAI_NAMES.get(architecture, architecture), "openai"
    elif not name.startswith("hf-hub:"):
        _check_name(architecture)
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tag and tag not in tags:
            raise UserError(f"{architecture} has no weights {tag!r}{nearest(tag, tags)}")
        tag = tag or next(iter(tags), "")
        if not tag:
            raise UserError(f"{architecture} has no published weights; give a file with --pretrained FILE "
                            f"--model {architecture}")
        if tag == "openai":
            architecture = OPENAI_NAMES.get(architecture, architecture)
    else:
        architecture, tag = name, None
    try:
        clip = open_clip.create_model(architecture, pretrained=tag or None, require_pretrained=True)
    except Exception as error:  # network, hub and loading errors of many libraries
        raise NotFetched(f"{name}: weights could not be had ({_first_line(error)}); with no network, download "
                         f"them elsewhere and pass --pretrained FILE --model {architecture}", _first_line(error)
                         ) from None
    return clip, _tokenizer(architecture)


def _untrained(architecture: str) -> tuple[CLIP, object]:
    _check_name(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            clip = open_clip.create_model(architecture, pretrained=None, load_weights=False,
                                          force_preprocess_cfg=_usual(architecture))
        except (RuntimeError, OSError, ImportError) as error:  # text towers that a library has to download
            raise UserError(f"{architecture}: cannot be built here ({_first_line(error)})") from None
    return clip, _tokenizer(architecture)


class _DownloadedTokenizer:
    """A tokenizer of the Hugging Face hub, got when it is first needed: scores of images do without it."""

    def __init__(self, architecture: str) -> None:
        self.architecture, self.tokenizer = architecture, None

    def __call__(self, texts: list[str]) -> Tensor:
        if self.tokenizer is None:
            try:
                self.tokenizer = open_clip.get_tokenizer(self.architecture)
            except Exception as error:  # a missing library, network and hub errors of many kinds
                raise UserError(f"{self.architecture}: its tokenizer could not be had ({_first_line(error)}); it needs "
                                "the package transformers and, the first time, a network") from None
        return self.tokenizer(texts)


def _tokenizer(architecture: str) -> object:
    known = not architecture.startswith("hf-hub:")
    text = open_clip.get_model_config(architecture)["text_cfg"] if known else {}
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        return _DownloadedTokenizer(architecture)
    return open_clip.get_tokenizer(architecture)


def _usual(architecture: str) -> dict:
    """The preprocessing of an architecture's (first) published weights; open_clip's default for files is OpenAI's."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    published = open_clip.get_pretrained_cfg(architecture, tags[0]) if tags else {}
    return {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in published}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_name(architecture: str) -> None:
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f"no CLIP named {architecture!r}{nearest(architecture, [*known, *OPENAI_ALIASES])}")


def _weights_digest(clip: CLIP) -> str:
    digest = hashlib.sha256()
    for name, module in clip.named_modules():  # GELU and quick-GELU towers differ in nothing but this
        digest.update(f"{name}:{type(module).__name__};".encode())
    for name, value in sorted(clip.state_dict().items()):
        digest.update(name.encode())
        digest.update(str(value.dtype).encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
