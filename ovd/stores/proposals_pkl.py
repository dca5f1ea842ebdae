"""mmdet's proposal files: a pickled list with one float32 array ``[n, 5]`` (x1 y1 x2 y2 score) per image.

The entries have no ids; which image one belongs to depends on the tool that wrote the file. So the order is always
said: ``"json"`` = images in the order of the annotation file (mmdet in test mode, without filtering), ``"sorted"`` = by
ascending image id (torchvision's CocoDetection, LVIS.get_img_ids). A file from the internet must not run code: the
reader builds arrays itself and refuses every other object.
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ovd.errors import UserError, nearest
from ovd.stores.array_pickle import PickledArray, load_arrays
from ovd.stores.atomic import atomic_write
from ovd.stores.shards import Regions, RegionStore

ORDERS = ("json", "sorted")
TOLERANCE = 1.0  # pixels that a box may reach over the image's border


class ImageSize(Protocol):
    """What is needed of an image record of an annotation file; height and width in pixels."""

    id: int
    height: int
    width: int


def load_proposals(path: str | os.PathLike, images: Sequence[ImageSize], order: str, *,
                   max_per_image: int | None = None, as_they_are: bool = False) -> dict[int, Regions]:
    """The proposals in an mmdet pickle, by image id, each image's by descending score.

    Boxes without area (mmdet writes one zero box for an image without proposals) are left out. Arrays ``[n, 4]`` have
    no scores and get 1.

    Args:
        path: the ``.pkl`` file.
        images: all images of the annotation file, in its order.
        order: ``"json"`` or ``"sorted"``, see above.
        max_per_image: keep that many of the best.
        as_they_are: keep all rows in the file's order, those without area too: other files are aligned with them.

    Raises: UserError that names the file and the image for anything that is not such a list, another number of images,
        values that are not finite, inverted boxes, and boxes outside their image.
    """
    path = Path(path)
    ordered = _in_order(images, order)
    entries = _read(path)
    if len(entries) != len(images):
        raise UserError(f"{path}: proposals of {len(entries)} images, but the annotation file has {len(images)}; give "
                        "the annotation file that they were made with, unfiltered")
    checked = [_boxes(path, index, entry, image.id) for index, (entry, image) in enumerate(zip(entries, ordered))]
    for index, (boxes, image) in enumerate(zip(checked, ordered)):
        outside = _outside(boxes, image)
        if outside.any():
            box = np.round(boxes[int(outside.argmax()), :4], 2).tolist()
            raise UserError(f"{path}: entry {index} has the box {box} outside image {image.id} ({image.width} x "
                            f"{image.height}) with order {order!r}; {_other_order(checked, images, order)}")
    result = {}
    for boxes, image in zip(checked, ordered):
        if as_they_are:
            result[image.id] = Regions(boxes[:, :4], boxes[:, 4])
            continue
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")][:max_per_image]
        result[image.id] = Regions(boxes[:, :4], boxes[:, 4])
    return result


def save_proposals(path: str | os.PathLike, store: RegionStore, images: Sequence[ImageSize], order: str, *,
                   by_score: bool = True) -> None:
    """Write the proposals of ``images`` as mmdet reads them, one entry per image in ``order``.

    Args:
        by_score: by descending score; False keeps the store's order, for files whose rows are aligned with these.

    Raises: UserError when an image is not in the store.
    """
    ordered = _in_order(images, order)
    store.require_images(image.id for image in ordered)
    entries = []
    for image in ordered:
        regions = store.view(image.id)
        rows = np.argsort(-regions.scores, kind="stable") if by_score else slice(None)
        entries.append(np.concatenate([regions.boxes[rows], regions.scores[rows, None]], axis=1))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(entries, file, protocol=4)


def _in_order(images: Sequence[ImageSize], order: str) -> list[ImageSize]:
    if order not in ORDERS:
        raise UserError(f"proposal file: unknown order {order!r}{nearest(order, ORDERS)}")
    return sorted(images, key=lambda image: image.id) if order == "sorted" else list(images)


def _boxes(path: Path, index: int, entry: Any, image_id: int) -> np.ndarray:
    where = f"{path}: entry {index} (image {image_id})"
    if not isinstance(entry, PickledArray) or entry.array is None:
        raise UserError(f"{where} is of type {_type(entry)}, expected an array [n, 5] (is this a file of detections, "
                        "not of proposals?)")
    array = entry.array
    if array.size == 0:
        return np.zeros((0, 5), np.float32)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise UserError(f"{where} has shape {list(array.shape)}, expected [n, 5]")
    boxes = np.ones((len(array), 5), np.float32)
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused
        boxes[:, :array.shape[1]] = array
    for bad, problem in ((~np.isfinite(boxes).all(1), "is not finite"),
                         ((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]), "is inverted (x1 y1 x2 y2)")):
        if bad.any():
            row = int(bad.argmax())
            raise UserError(f"{where}: box {row} {boxes[row, :4].tolist()}, score {boxes[row, 4]:g}, {problem}")
    return boxes


def _outside(boxes: np.ndarray, image: ImageSize) -> np.ndarray:
    limit = np.array([image.width, image.height], np.float32) + TOLERANCE
    return (boxes[:, :2] < -TOLERANCE).any(1) | (boxes[:, 2:4] > limit).any(1)


def _other_order(checked: list[np.ndarray], images: Sequence[ImageSize], order: str) -> str:
    other = next(o for o in ORDERS if o != order)
    if not any(_outside(boxes, image).any() for boxes, image in zip(checked, _in_order(images, other))):
        return f"all boxes fit with order {other!r}"
    return "no order fits: these are proposals of other images"


def _read(path: Path) -> list[Any]:
    entries = load_arrays(path)
    if not isinstance(entries, (list, tuple)):
        raise UserError(f"{path}: is of type {_type(entries)}, expected a list with an array [n, 5] per image")
    return list(entries)


def _type(value: Any) -> str:
    return "array" if isinstance(value, PickledArray) else type(value).__name__.strip("_")
