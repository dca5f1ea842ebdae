"""Classes from example boxes: of the detector's own vectors of them, or codes of its hypernetwork.

Shapes: S boxes, D embedding width.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ovd.apis.evidence import Looker
from ovd.apis.images import ImageInput, described, read_rgb
from ovd.errors import UserError
from ovd.fewshot.detection.methods import CODES
from ovd.fewshot.detector_vectors import space_of
from ovd.fewshot.support_vectors import SupportVectors
from ovd.stores.class_heads import ClassHead

Example = tuple[ImageInput, Sequence[float]]


def example_head(looker: Looker, name: str, boxes: Sequence[Example], own: ClassHead, method: str) -> ClassHead:
    """A class from example boxes alone.

    Args:
        boxes: Images, each with x1, y1, x2, y2 in its pixels; several boxes of one image are several entries.
        own: A head of the detector's space.
        method: Of :data:`ovd.fewshot.sources.METHODS`; or ``"codes"``, of the detector's hypernetwork.

    Raises:
        UserError: No box, one outside its image or without an area, an image that cannot be read; a method that the
            detector has not.
    """
    model = looker.model
    needed = "code_head" if method == CODES else "embed_boxes"
    if not hasattr(model, needed):
        other = f"method={CODES!r}" if hasattr(model, "code_head") else "a ViLD"
        raise UserError(f"class {name!r}: {type(model).__name__} makes no class of boxes by {method!r}: give {other}")
    examples, order, origins = _by_image(name, boxes)
    rows = looker.read(examples, model.support_features if method == CODES else model.embed_boxes)
    rows = rows[torch.tensor(order).argsort()]
    origins = [origin for _, origin in sorted(zip(order, origins), key=lambda pair: pair[0])]
    class_of_S = torch.zeros(len(order), dtype=torch.long)
    if method == CODES:
        with torch.inference_mode():
            head = model.code_head(rows.to(next(model.parameters()).device), class_of_S, (name,), [{"boxes": origins}])
        return replace(head, weights=head.weights.clone())
    origin = {"boxes": origins, "embedded": "detector"}
    return SupportVectors((name,), rows, class_of_S, space_of(own), (origin,), own.scale).head(method)


def _by_image(name: str, boxes: Sequence[Example]) -> tuple[list[tuple[np.ndarray, list[list[float]]]], list[int],
                                                            list[list[Any]]]:
    """Each image once, with its boxes; the place of each of these among ``boxes``, and where it comes from."""
    by_image: dict[Any, tuple[ImageInput, list[tuple[int, list[float]]]]] = {}
    for number, entry in enumerate(boxes, 1):
        try:
            image, box = entry
            box = [float(value) for value in box]
        except (TypeError, ValueError):
            raise UserError(f"box {number} of {name!r}: give (image, (x1, y1, x2, y2))") from None
        key = os.fspath(image) if isinstance(image, str | os.PathLike) else id(image)
        by_image.setdefault(key, (image, []))[1].append((number, box))
    if not by_image:
        raise UserError(f"class {name!r}: boxes is empty: give at least one, or leave it out")
    examples, order, origins = [], [], []
    for image, numbered in by_image.values():
        rgb = read_rgb(image)
        for number, box in numbered:
            _check(box, rgb.shape[1], rgb.shape[0], f"{described(image)}: box {number} of {name!r}")
            order.append(number)
            origins.append([described(image), *box])
        examples.append((rgb, [box for _, box in numbered]))
    return examples, order, origins


def _check(box: list[float], width: int, height: int, where: str) -> None:
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
        raise UserError(f"{where} is {box}: give x1 < x2 and y1 < y2 (x1, y1, x2, y2)")
    if box[0] < -1 or box[1] < -1 or box[2] > width + 1 or box[3] > height + 1:
        raise UserError(f"{where} is {box}, outside its image of {width} x {height} pixels")
