"""Weights that others publish and that are fetched when they are first needed: what, from where, into which folder.

Nothing here loads torch or reaches a network.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovd.errors import UserError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # open_clip looks for them in this order


class NotFetched(UserError):
    """Weights are not here, and could not be downloaded; ``reason`` is why."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Download:
    """A file of weights.

    Attributes:
        what: For people.
        address: Where it comes from.
        folder: The cache that it goes to.
        patterns: Where it is in there, once it is; one of them.
        megabytes: Its size; None if not known.
    """

    what: str
    address: str
    folder: Path
    patterns: tuple[str, ...]
    megabytes: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether it was fetched before."""
        return any(path.exists() for pattern in self.patterns for path in self.folder.glob(pattern))

    def __str__(self) -> str:
        size = "" if self.megabytes is None else f" ({self.megabytes} MB)"
        return f"{self.address}{size} into {self.folder}"


def of_torch(what: str, address: str, megabytes: int | None = None) -> Download:
    """A file that ``torch.hub`` fetches (``TORCH_HOME`` moves its cache)."""
    home = os.environ.get("TORCH_HOME") or Path(_cache(), "torch")
    return Download(what, address, Path(home, "hub", "checkpoints").expanduser(), (address.rsplit("/", 1)[1],),
                    megabytes)


def of_hugging_face(what: str, repository: str, megabytes: int | None = None) -> Download:
    """A CLIP that open_clip fetches from the Hugging Face hub (``HF_HOME`` moves its cache)."""
    home = os.environ.get("HF_HOME") or Path(_cache(), "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    place = "models--" + repository.strip("/").replace("/", "--")
    return Download(what, f"https://huggingface.co/{repository.strip('/')}", folder,
                    tuple(f"{place}/snapshots/*/{name}" for name in HUB_FILES), megabytes)


def photos_downloads() -> tuple[Download, ...]:
    """What ``ovd.load("photos")`` needs with its config as it is."""
    return (of_torch("boxes and masks: torchvision's Mask R-CNN, trained on COCO (BSD-3-Clause)",
                     "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 177),
            of_hugging_face("words: OpenAI's CLIP, ViT-B/32 (MIT)", "timm/vit_base_patch32_clip_224.openai", 605))


def not_fetched(downloads: Sequence[Download], reason: str) -> NotFetched:
    """The error that names what is not here."""
    missing = [download for download in downloads if not download.is_here]
    told = "; ".join(map(str, missing)) or "weights"
    return NotFetched(f"could not download {told} ({reason}): run this once where there is a network, or copy what is "
                      "in these folders from a machine that did", reason)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
