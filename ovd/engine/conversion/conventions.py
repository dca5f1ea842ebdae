"""What tensors do not tell: where a ResNet's blocks have their stride, and what images it takes.

A network of caffe style (detectron2's MSRA weights, mmdet's ``*_caffe``) strides on the first 1x1 convolution of a
block, one of pytorch style on the 3x3; the tensors are alike, and mixing them up costs accuracy without a word. So it
is told by where the weights come from, and recorded in what is written.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

STYLES = ("pytorch", "caffe")
CHANNELS = ("rgb", "bgr")
# Means and deviations that differ less are the same convention: 102.98 (Detectron), 103.53 (detectron2), 103.94 (VGG).
TOLERANCE = 2.5


@dataclass(frozen=True)
class Convention:
    """How a backbone is to be used; None where it is not known.

    Attributes:
        style: ``"pytorch"`` or ``"caffe"``.
        channels: order of the input's colours, ``"rgb"`` or ``"bgr"``.
        mean, std: of the input's normalisation, in the order of ``channels``, on the scale 0..255.
        evidence: where this is known from.
    """

    style: str | None = None
    channels: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    evidence: str = "nothing says"

    def record(self) -> dict[str, Any]:
        """For json, less what is not known."""
        return {key: list(value) if isinstance(value, tuple) else value
                for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        images = "unknown" if self.channels is None else self.channels.upper()
        return f"style {self.style or 'unknown'}, images {images} ({self.evidence})"

    def differences(self, wanted: "Convention") -> list[str]:
        """What ``wanted`` has other, in words."""
        found = [f"{what} is {mine or 'not known'}, the config's {theirs}"
                 for what, mine, theirs in (("style", self.style, wanted.style),
                                            ("image format", self.channels, wanted.channels))
                 if theirs is not None and mine != theirs]
        found += [f"{what} is {list(mine)}, the config's {list(theirs)}"
                  for what, mine, theirs in (("mean", self.mean, wanted.mean), ("std", self.std, wanted.std))
                  if not found and mine and theirs and any(abs(a - b) > TOLERANCE for a, b in zip(mine, theirs))]
        return found


IMAGENET_RGB = Convention("pytorch", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# DetPro's and OADP's detectors: caffe style, although SoCo, from which they start, was trained in pytorch style
DETECTOR_RGB = replace(IMAGENET_RGB, style="caffe")
MSRA_BGR = Convention("caffe", "bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))


def of_source(path: str | Path, texts: Sequence[str] = (), recorded: Mapping[str, Any] | None = None,
              always: Convention | None = None, usual: Convention | None = None, style: str | None = None,
              channels: str | None = None) -> Convention:
    """The convention of a file, from the first of these that says: the user, what a conversion recorded, a config
    inside the file, its layout if all its files are alike, the file's name, and what its layout's files usually are.

    Args:
        path: the file; ``caffe`` or ``msra`` as a word of its name says something.
        texts: configs that the file holds as text.
        recorded: from :meth:`Convention.record`.
        always, usual: of the layout.
        style, channels: what the user says.
    """
    found = Convention()
    if recorded and (recorded.get("style") or recorded.get("channels")):
        found = Convention(recorded.get("style"), recorded.get("channels"), _numbers(recorded.get("mean")),
                           _numbers(recorded.get("std")), "recorded in the file")
    found = found if found.style else next((c for c in map(_of_text, texts) if c.style), found)
    if not found.style and always is not None:
        found = replace(always, evidence="as all files of this layout")
    found = found if found.style else _of_name(Path(path).name)
    if not found.style and usual is not None:
        found = replace(usual, evidence="as files of this layout usually")
    if style or channels:
        preset = {"rgb": IMAGENET_RGB, "bgr": MSRA_BGR}.get(channels, found)
        found = replace(preset, style=style or found.style, evidence="as told")
    return found


def of_config(model: Mapping[str, Any]) -> Convention:
    """The convention of a config's ``model``, whose images are read as BGR; style None for what is no plain ResNet."""
    backbone, images = model.get("backbone", model), model.get("data_preprocessor") or {}
    kind = backbone.get("type")
    plain = (kind if isinstance(kind, str) else getattr(kind, "__name__", "")).rpartition(".")[2] == "ResNet"
    return Convention(backbone.get("style", "pytorch") if plain else None,
                      "rgb" if images.get("bgr_to_rgb") else "bgr" if images else None,
                      _numbers(images.get("mean")), _numbers(images.get("std")), "config")


def _of_text(text: str) -> Convention:
    style = re.search(r"\bstyle['\"]?\s*[=:]\s*['\"](pytorch|caffe)['\"]", text)
    rgb = re.search(r"\b(?:bgr_)?to_rgb['\"]?\s*[=:]\s*(True|False)", text)
    mean, std = (re.search(rf"(?<!\w){what}['\"]?\s*[=:]\s*\[([^\]]*)\]", text) for what in ("mean", "std"))
    return Convention(style[1] if style else None, None if rgb is None else CHANNELS[rgb[1] == "False"],
                      _numbers(mean and mean[1].split(",")), _numbers(std and std[1].split(",")),
                      "the config inside the file")


def _of_name(name: str) -> Convention:
    words = re.split(r"[^a-z0-9]+", name.lower())
    if not {"caffe", "msra"} & set(words):
        return Convention()
    return replace(MSRA_BGR, evidence="the file's name")


def _numbers(values: Any) -> tuple[float, ...] | None:
    try:
        return tuple(float(value) for value in values) if values else None
    except ValueError:
        return None
