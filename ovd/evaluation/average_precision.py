"""Average precision by COCO's or LVIS's protocol, apart for groups of classes, from one pass over all classes.

The arithmetic is hotcoco's (Rust; equal to pycocotools and lvis-api). A group's AP is the mean over its classes' slice
of the precision array, so "base", "novel" and "all" come from the same detections, found in competition with each other
(generalised evaluation), and classes without ground truth are left out.

Shapes: N detections, T IoU thresholds, R recall points, C classes.
"""

import contextlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hotcoco import COCO, COCOeval

from ovd.errors import UserError
from ovd.vocabulary.classes import canonical

PROTOCOLS = {"coco": 100, "lvis": 300}  # protocol -> detections that count per image
KINDS = {"bbox": "", "segm": "mask_"}  # what is evaluated -> how its figures' names begin
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIZES = ("small", "medium", "large")  # annotated area below 32 x 32 pixels, up to 96 x 96, above


@dataclass(frozen=True)
class Detections:
    """Detections of many images, in columns.

    Attributes:
        image_ids: ``[N]`` int64.
        boxes: ``[N, 4]`` float, x1, y1, x2, y2 in pixels of the original image.
        scores: ``[N]`` float.
        labels: ``[N]`` int, positions in the list of classes.
        masks: N run-length encodings ``{"size": [h, w], "counts": bytes}``, or None.
        sizes: ``[N, 2]`` widths and heights where a file gives these: a difference of corners can be off in the last
            digit. None for those differences.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None = None
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)


class GroundTruth:
    """An annotation file, seen through a list of classes.

    Args:
        ann_file: COCO or LVIS json. Its category ids may be any: classes are matched by name.
        classes: names; label ``i`` is ``classes[i]``. Annotations of other categories are not evaluated.

    Attributes:
        category_ids: ``[C]`` category id of each label; a class that the file does not have gets an id of its own.
        frequencies: ``[C]`` LVIS's "r", "c" or "f" of each label, "" where the file has none.
    """

    def __init__(self, ann_file: str | os.PathLike, classes: Sequence[str]) -> None:
        try:
            self.coco = COCO(os.fspath(ann_file))
        except Exception as error:
            raise UserError(f"{ann_file}: not a readable annotation file: {error}") from error
        self.ann_file = os.fspath(ann_file)
        self.classes = tuple(classes)
        by_name = {canonical(category["name"]): category for category in self.coco.cats.values()}
        unused = max(self.coco.cats, default=0) + 1
        found = [by_name.get(canonical(name)) for name in classes]
        if not any(found):
            raise UserError(f"{ann_file}: has none of the {len(classes)} classes to evaluate, such as {classes[0]!r}")
        self.category_ids = np.array([c["id"] if c else unused + i for i, c in enumerate(found)], dtype=np.int64)
        self.frequencies = tuple(c.get("frequency") or "" if c else "" for c in found)

    @cached_property
    def images(self) -> dict[int, dict]:
        """Image id -> record of the file."""
        return self.coco.imgs

    def precision(self, detections: Detections, iou_type: str = "bbox", protocol: str = "coco",
                  image_ids: Sequence[int] | None = None, max_dets: int | None = None,
                  iou_thresholds: Sequence[float] = IOU_THRESHOLDS) -> np.ndarray:
        """Interpolated precision over objects of all sizes: ``precision_by_size(...)["all"]``."""
        return self.precision_by_size(detections, iou_type, protocol, image_ids, max_dets, iou_thresholds)["all"]

    def precision_by_size(self, detections: Detections, iou_type: str = "bbox", protocol: str = "coco",
                          image_ids: Sequence[int] | None = None, max_dets: int | None = None,
                          iou_thresholds: Sequence[float] = IOU_THRESHOLDS) -> dict[str, np.ndarray]:
        """Interpolated precision, over objects of all sizes and of each.

        Args:
            iou_type: ``bbox`` or ``segm``.
            protocol: ``coco``, or ``lvis`` (federated: a class counts only in images where it is annotated or known to
                be absent).
            image_ids: images that were searched; by default those of the file.
            max_dets: detections that count per image; by default 100 (COCO) or 300 (LVIS).

        Returns:
            ``all``, ``small``, ``medium`` and ``large`` (:data:`SIZES`) -> ``[T, R, C]`` float64; -1 for classes
            without ground truth of that size.
        """
        dets = np.empty((len(detections), 7))
        dets[:, 0] = detections.image_ids
        dets[:, 1:5] = detections.boxes
        dets[:, 3:5] -= dets[:, 1:3]
        if detections.sizes is not None:
            dets[:, 3:5] = detections.sizes
        dets[:, 5] = detections.scores
        dets[:, 6] = self.category_ids[detections.labels] if len(dets) else 0
        segmentation = detections.masks if iou_type == "segm" else None
        found = self.coco.load_res(dets, segmentation=segmentation)
        evaluation = COCOeval(self.coco, found, iou_type, lvis_style=protocol == "lvis")
        # One class list for all: hotcoco sorts ids, the last line brings the classes back into label order.
        evaluation.params.cat_ids = sorted(int(i) for i in self.category_ids)
        if image_ids is not None:
            evaluation.params.img_ids = sorted(int(i) for i in image_ids)
        limit = max_dets or PROTOCOLS[protocol]
        evaluation.params.max_dets = [limit]
        evaluation.params.iou_thrs = [float(t) for t in iou_thresholds]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        precision_TRCS = np.asarray(evaluation.eval["precision"])[..., -1]
        order = np.argsort(np.argsort(self.category_ids))
        return {size: precision_TRCS[..., evaluation.params.area_rng_lbl.index(size)][:, :, order]
                for size in ("all", *SIZES)}


def ap_figures(truth: GroundTruth, detections: Detections, groups: Mapping[str, Sequence[int]], kinds: Sequence[str],
               protocol: str, image_ids: Sequence[int] | None = None,
               max_dets: int | None = None) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """All average precisions of detections, in per cent.

    Args:
        groups: group of classes -> labels.
        kinds: ``bbox`` and / or ``segm``.
        protocol, image_ids, max_dets: as for :meth:`GroundTruth.precision_by_size`.

    Returns:
        group -> figure (``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``; of masks with ``mask_``
        before it) -> value; and kind -> AP of each class ``[C]``.
    """
    figures: dict[str, dict[str, float]] = {group: {} for group in groups}
    by_class = {}
    for kind, prefix in KINDS.items():
        if kind not in kinds:
            continue
        by_size = truth.precision_by_size(detections, kind, protocol, image_ids, max_dets)
        precision = by_size["all"]
        for group, labels in groups.items():
            ap, ap50 = group_ap(precision, labels)
            row = {"ap": ap, "ap50": ap50, "ap75": ap_at(precision, labels, 0.75),
                   **{f"ap_{size}": group_ap(by_size[size], labels)[0] for size in SIZES}}
            figures[group] |= {prefix + name: value for name, value in row.items()}
        by_class[kind] = class_ap(precision)
    return figures, by_class


def check_kinds(kinds: Sequence[str]) -> None:
    """UserError unless all of ``kinds`` are ``bbox`` or ``segm``."""
    if unknown := set(kinds) - set(KINDS):
        raise UserError(f"--eval: {', '.join(sorted(unknown))} is not one of {', '.join(KINDS)}")


def group_ap(precision_TRC: np.ndarray, labels: Sequence[int]) -> tuple[float, float]:
    """AP over the IoU thresholds and AP at the first of them (0.5), in per cent, of a group of classes.

    NaN where no class of the group has ground truth.
    """
    group = precision_TRC[:, :, np.asarray(labels, dtype=np.int64)]
    at_first = group[0]
    return _mean(group), _mean(at_first)


def ap_at(precision_TRC: np.ndarray, labels: Sequence[int], threshold: float) -> float:
    """AP at one of :data:`IOU_THRESHOLDS`, in per cent, of a group of classes; NaN as for :func:`group_ap`."""
    index = int(np.abs(IOU_THRESHOLDS - threshold).argmin())
    return _mean(precision_TRC[index][:, np.asarray(labels, dtype=np.int64)])


def class_ap(precision_TRC: np.ndarray) -> np.ndarray:
    """AP of each class in per cent, ``[C]``; NaN for classes without ground truth."""
    valid = precision_TRC > -1
    total = np.where(valid, precision_TRC, 0.0).sum(axis=(0, 1))
    count = valid.sum(axis=(0, 1))
    return np.divide(100.0 * total, count, out=np.full(len(count), np.nan), where=count > 0)


def groups_of(split_groups: Mapping[str, Sequence[int]], frequencies: Sequence[str],
              protocol: str) -> dict[str, list[int]]:
    """The groups of a split; for the LVIS protocol also rare, common and frequent (APr, APc, APf)."""
    groups = {name: list(labels) for name, labels in split_groups.items()}
    if protocol == "lvis":
        everything = groups.pop("all")
        for name, letter in (("rare", "r"), ("common", "c"), ("frequent", "f")):
            groups[name] = [i for i, f in enumerate(frequencies) if f == letter]
        groups["all"] = everything
    return groups


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return 100.0 * float(valid.mean()) if valid.size else math.nan
