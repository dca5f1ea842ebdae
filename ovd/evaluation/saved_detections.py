"""Detections from files: those of ``ovd test --out``, and the results json of other projects (COCO's and LVIS's)."""

import json
import math
import os
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ovd.data.annotation_checks import in_words
from ovd.data.annotations import no_garbage_collection
from ovd.errors import UserError
from ovd.evaluation.average_precision import Detections, GroundTruth
from ovd.stores.array_pickle import PickledArray, load_arrays


class _Row(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    segmentation: dict[str, Any] | list[list[float]] | UnsetType | None = UNSET


def load_detections(path: str | os.PathLike, truth: GroundTruth,
                    kinds: Sequence[str] | None = None) -> tuple[Detections, list[int] | None]:
    """Read detections and check them against the ground truth.

    Args:
        path: ``.json``: a list of ``{"image_id", "category_id", "bbox" (x, y, width, height), "score"[,
            "segmentation"]}`` with the ids of the annotation file; or ``.pkl``, as ``ovd test --out`` writes it.
        truth: the ground truth; detections of its categories that are not evaluated are left out.
        kinds: what is to be evaluated; masks are required for ``segm``, and left out without it. None: masks where all
            detections have one.

    Returns:
        the detections in order of image id, those of an image in the order of the file; and the images that were
        searched, where the file tells (``.pkl``).

    Raises:
        UserError: names the file and the record.
    """
    path = Path(path)
    if path.suffix not in (".json", ".pkl"):
        raise UserError(f"{path}: detections are a .json (results of COCO or LVIS) or a .pkl (ovd test --out)")
    with no_garbage_collection():
        found, images = (_from_json if path.suffix == ".json" else _from_pickle)(path, truth, kinds)
    order = np.argsort(found.image_ids, kind="stable")
    _check(path, found, truth)
    masks = None if found.masks is None else [found.masks[i] for i in order.tolist()]
    sizes = None if found.sizes is None else found.sizes[order]
    return Detections(found.image_ids[order], found.boxes[order], found.scores[order], found.labels[order], masks,
                      sizes), images


def _from_json(path: Path, truth: GroundTruth, kinds: Sequence[str] | None) -> tuple[Detections, None]:
    rows = _rows(path)
    category_ids = _integers(path, "category_id", rows)
    by_id = np.argsort(truth.category_ids)
    place = np.searchsorted(truth.category_ids, category_ids, sorter=by_id)
    labels = by_id[np.minimum(place, len(by_id) - 1)]
    evaluated = truth.category_ids[labels] == category_ids
    for index in np.flatnonzero(~(evaluated | np.isin(category_ids, list(truth.coco.cats))))[:1]:
        raise UserError(f"{path}: record {index} has the category id {category_ids[index]}, which {truth.ann_file} "
                        "does not have; give the annotation file that it was made with (--ann)")
    positions = np.flatnonzero(evaluated)
    if len(positions) < len(rows):
        rows, labels = [rows[i] for i in positions.tolist()], labels[positions]
    numbers = chain.from_iterable(map(attrgetter("bbox"), rows))
    boxes = np.fromiter(numbers, np.float64, 4 * len(rows)).reshape(-1, 4)
    sizes = boxes[:, 2:].copy()
    boxes[:, 2:] += boxes[:, :2]
    scores = np.fromiter(map(attrgetter("score"), rows), np.float64, len(rows))
    return Detections(_integers(path, "image_id", rows), boxes, scores, labels,
                      _json_masks(path, truth, rows, positions, kinds), sizes), None


def _integers(path: Path, field: str, rows: list[_Row]) -> np.ndarray:
    try:
        return np.fromiter(map(attrgetter(field), rows), np.int64, len(rows))
    except OverflowError:
        raise UserError(f"{path}: has a number in {field} that does not fit into 64 bits") from None


def _rows(path: Path) -> list[_Row]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the detections {path}: {error.strerror or error}") from None
    if not content.strip():
        raise UserError(f"{path} is empty; write it again, with ovd test --out")
    try:
        return msgspec.json.decode(content, type=list[_Row])
    except msgspec.ValidationError as error:
        words = in_words(str(error))  # "[3].bbox: expected ..."
        number, _, what = words.removeprefix("[").partition("]")
        where = f"record {number}{what}" if words.startswith("[") else f"it is no list of detections: {words}"
        raise UserError(f"{path}: {where}") from None
    except msgspec.DecodeError as error:
        _explain_non_finite(path, content)
        raise UserError(f"{path} is cut or no json ({error}); write it again, with ovd test --out") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error})") from None


def _explain_non_finite(path: Path, content: bytes) -> None:
    """UserError if what is wrong is a NaN or Infinity, which Python's json writes but json does not have."""
    try:
        rows = json.loads(content)
    except ValueError:
        return
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        for key, value in row.items() if isinstance(row, dict) else ():
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise UserError(f"{path}: record {index} has a NaN or infinite number in {key}; correct the detector")


def _json_masks(path: Path, truth: GroundTruth, rows: list[_Row], positions: np.ndarray,
                kinds: Sequence[str] | None) -> list | None:
    if kinds is not None and "segm" not in kinds:
        return None
    masks = [row.segmentation for row in rows]
    for index, (position, row) in enumerate(zip(positions.tolist(), rows)):
        if not row.segmentation:
            if kinds is None and index == 0:
                return None
            raise UserError(f"{path}: record {position} has no segmentation, which --eval segm needs; use --eval bbox")
        if isinstance(row.segmentation, dict):
            _check_rle(f"{path}: record {position}", row.segmentation, truth.images.get(row.image_id))
    return masks


def _check_rle(where: str, mask: Any, image: dict | None) -> None:
    size, counts = (mask.get("size"), mask.get("counts")) if isinstance(mask, dict) else (None, None)
    if not isinstance(counts, str | bytes | list) or not isinstance(size, list | tuple):
        raise UserError(f"{where}: its segmentation is neither polygons nor a run-length encoding with size and counts")
    if image and list(size) != [image["height"], image["width"]]:
        raise UserError(f"{where}: its mask has the size {list(size)}, image {image['id']} is "
                        f"{[image['height'], image['width']]} (height, width)")
    if isinstance(counts, list) and not (all(isinstance(run, int) and run >= 0 for run in counts)
                                         and sum(counts) == math.prod(size)):
        raise UserError(f"{where}: the counts of its mask are no run lengths of {math.prod(size)} pixels")


def _from_pickle(path: Path, truth: GroundTruth, kinds: Sequence[str] | None) -> tuple[Detections, list[int]]:
    images = load_arrays(path)
    if not isinstance(images, list):
        raise UserError(f"{path}: is no list of images, as ovd test --out writes it")
    columns: dict[str, list] = {"bboxes": [], "scores": [], "labels": []}
    ids, masks, has_masks = [], [], kinds is None or "segm" in kinds
    for index, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("img_id"), int):
            raise UserError(f"{path}: record {index} is no image with an img_id, as ovd test --out writes it")
        arrays = {name: getattr(image.get(name), "array", None) for name in columns}
        for name, array in arrays.items():
            if not isinstance(image.get(name), PickledArray) or array is None:
                raise UserError(f"{path}: record {index} (image {image['img_id']}) has no {name!r}")
            columns[name].append(array)
        count = arrays["scores"].size
        if {name: array.shape for name, array in arrays.items()} != {
                "bboxes": (count, 4), "scores": (count,), "labels": (count,)}:
            raise UserError(f"{path}: record {index} (image {image['img_id']}): bboxes [n, 4], scores [n] and labels "
                            "[n] differ in length")
        if count and arrays["labels"].dtype.kind not in "iu":
            raise UserError(f"{path}: record {index} (image {image['img_id']}): labels are {arrays['labels'].dtype}, "
                            "expected integers")
        if kinds is not None and "segm" in kinds and "masks" not in image:
            raise UserError(f"{path}: record {index} (image {image['img_id']}) has no masks, which --eval segm needs; "
                            "use --eval bbox")
        has_masks = has_masks and "masks" in image
        ids.append(image["img_id"])
        if has_masks:
            masks.extend(_pickled_masks(f"{path}: record {index} (image {image['img_id']})", image, count, truth))
    if not ids:
        raise UserError(f"{path}: has no images; write it again, with ovd test --out")
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: image {next(i for i in ids if ids.count(i) > 1)} occurs twice")
    if unknown := set(ids) - truth.images.keys():
        raise UserError(f"{path}: has the image {min(unknown)}, which {truth.ann_file} does not have; give the "
                        "annotation file that it was made with (--ann)")
    counts = [len(scores) for scores in columns["scores"]]
    joined = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    labels = joined["labels"].astype(np.int64)
    for position in np.flatnonzero((labels < 0) | (labels >= len(truth.classes)))[:1]:
        raise UserError(f"{path}: has the label {labels[position]}, the split has {len(truth.classes)} classes; give "
                        "the split that it was made with (--split)")
    return Detections(np.repeat(np.array(ids, np.int64), counts), joined["bboxes"].reshape(-1, 4), joined["scores"],
                      labels, masks if has_masks else None), sorted(ids)


def _pickled_masks(where: str, image: dict, count: int, truth: GroundTruth) -> list[dict]:
    masks = image["masks"]
    if not isinstance(masks, list) or len(masks) != count:
        raise UserError(f"{where}: masks are not a list with one for each of {count} detections")
    for mask in masks:
        _check_rle(where, mask, truth.images.get(image["img_id"]))
    return masks


def _check(path: Path, found: Detections, truth: GroundTruth) -> None:
    known = np.array(list(truth.images), np.int64)
    for index in np.flatnonzero(~np.isin(found.image_ids, known))[:1]:
        raise UserError(f"{path}: there is a detection in image {found.image_ids[index]}, which {truth.ann_file} does "
                        "not have; give the annotation file that it was made with (--ann)")
    bad = ~(np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1))
    for index in np.flatnonzero(bad)[:1]:
        raise UserError(f"{path}: a detection in image {found.image_ids[index]} has a NaN or infinite number in its "
                        "box or score; correct the detector")
