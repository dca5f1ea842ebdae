"""Looking at images: what a detector sees in them before it is told any names.

Shapes: n images of a pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures import SampleList
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn

from ovd.apis.images import ImageInput, described, read_rgb
from ovd.data.in_memory import prepared_image
from ovd.errors import UserError
from ovd.fewshot.detector_vectors import Reader

PIXELS = 16_000_000  # of the images of a pass, as they are: each mask of each has as many
_LOADERS = ("LoadImageFromFile", "LoadImageFromNDArray", "LoadAnnotations", "LoadRegions")


@dataclass(frozen=True, eq=False)
class Pass:
    """Images that went through the detector together, and what it saw."""

    places: tuple[int, ...]
    seen: Any
    samples: SampleList


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a detector saw in images: name it as often as you like (:meth:`ovd.apis.detector.Detector.name`).

    Attributes:
        images: As they were given.
        sizes: (height, width) of each.
        single: Whether one image was given, not a list.
        masks: Whether masks can be made of it.
    """

    images: tuple[ImageInput, ...]
    sizes: tuple[tuple[int, int], ...]
    single: bool
    masks: bool
    passes: tuple[Pass, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)


class Looker:
    """Prepares images as a config's test pipeline does, and passes them through a detector's shared weights.

    Images of equal size after preparation go through together, so that none is padded because of another.
    """

    def __init__(self, model: nn.Module, pipeline: Sequence[dict]) -> None:
        self.model = model
        self.steps = Compose(list(pipeline))
        self.divisor = max(1, getattr(model.data_preprocessor, "pad_size_divisor", 1))

    def prepare(self, image: ImageInput) -> tuple[dict[str, Any], tuple[int, int]]:
        """The pipeline's output for an image, and the image's (height, width).

        Raises:
            UserError: An image that cannot be read.
        """
        rgb = read_rgb(image)
        try:
            prepared = prepared_image(self.steps, cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR))
        except UserError as error:
            raise UserError(f"{described(image)}: {error}") from None
        return prepared, rgb.shape[:2]

    def groups(self, prepared: Sequence[dict[str, Any]], sizes: Sequence[tuple[int, int]],
               batch_size: int) -> list[list[int]]:
        """Positions of images that go through together: ``batch_size`` at most, all of one padded size, of
        :data:`PIXELS` together unless it is one alone."""
        by_size: dict[tuple[int, int], list[list[int]]] = {}
        for place, one in enumerate(prepared):
            size = tuple(-(-side // self.divisor) for side in one["inputs"].shape[-2:])
            groups = by_size.setdefault(size, [])
            if groups and len(groups[-1]) < batch_size and \
                    sum(math.prod(sizes[other]) for other in (*groups[-1], place)) <= PIXELS:
                groups[-1].append(place)
            else:
                groups.append([place])
        return [group for groups in by_size.values() for group in groups]

    def collate(self, prepared: Sequence[dict[str, Any]]) -> tuple[Tensor, SampleList]:
        """A batch on the model's device, normalised."""
        data = self.model.data_preprocessor(pseudo_collate(list(prepared)), False)
        return data["inputs"], data["data_samples"]

    @torch.inference_mode()
    def look(self, images: Sequence[ImageInput], single: bool, masks: bool, batch_size: int) -> Evidence:
        """All that can be said of images without a vocabulary."""
        prepared, sizes = zip(*map(self.prepare, images)) if images else ((), ())
        passes = []
        for places in self.groups(prepared, sizes, batch_size):
            inputs, samples = self.collate([prepared[place] for place in places])
            seen = self.model.evidence(inputs, samples, **({"keep_features": True} if masks else {}))
            passes.append(Pass(tuple(places), seen, samples))
        return Evidence(tuple(images), tuple(sizes), single, masks, tuple(passes))

    @torch.inference_mode()
    def read(self, examples: Sequence[tuple[ImageInput, Sequence[Sequence[float]]]], reader: Reader) -> Tensor:
        """A row for each box (x1, y1, x2, y2 in pixels of its image), image after image, on the CPU.

        Args:
            reader: One of the model's methods that read boxes, such as ``embed_boxes``.
        """
        rows = []
        for image, boxes in examples:
            prepared, _ = self.prepare(image)
            inputs, samples = self.collate([prepared])
            scale = torch.tensor(samples[0].scale_factor, dtype=torch.float32).repeat(2)
            samples[0].gt_instances.bboxes = (torch.tensor(boxes, dtype=torch.float32) * scale).to(inputs[0].device)
            rows.append(reader(inputs, samples).cpu())
        return torch.cat(rows).clone()


def prepare_steps(cfg: Config) -> list[dict]:
    """The steps of a config's test pipeline after the image is loaded, with nothing about annotations.

    Raises:
        UserError: A config without a test pipeline.
    """
    try:
        steps = [dict(step) for step in cfg.test_dataloader.dataset.pipeline]
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{cfg.filename}: has no test_dataloader.dataset.pipeline to prepare images with") from None

    def name(step: dict) -> str:
        return getattr(step["type"], "__name__", str(step["type"])).rsplit(".", 1)[-1]

    kept = [step for step in steps if name(step) not in (*_LOADERS, "PackDetInputs", "PackRegions")]
    return [*kept, {"type": PackDetInputs, "meta_keys": ("img_id", "ori_shape", "img_shape", "scale_factor")}]
