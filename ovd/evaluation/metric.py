"""The metric of every detector here: AP of groups of classes, AP with one label a box, accuracy at true boxes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hotcoco.mask
import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.dist import broadcast_object_list, gather_object, is_main_process
from mmengine.evaluator import BaseMetric

from ovd.errors import UserError
from ovd.evaluation.accuracy import group_accuracy
from ovd.evaluation.average_precision import (
    KINDS,
    PROTOCOLS,
    Detections,
    GroundTruth,
    ap_figures,
    check_kinds,
    group_ap,
    groups_of,
)
from ovd.evaluation.records import PackedMasks, merge, to_columns
from ovd.vocabulary.splits import Split, get_split


@METRICS.register_module()
class OpenVocabMetric(BaseMetric):
    """Per group of classes (``base``, ``novel``, the split's own groups, ``all``; for LVIS also ``rare``, ``common``,
    ``frequent``), in per cent, from one generalised pass:

    - ``{group}/ap``, ``{group}/ap50``, ``{group}/ap75``: box AP over IoU 0.5 to 0.95, at 0.5 and at 0.75;
    - ``{group}/ap_small``, ``ap_medium``, ``ap_large``: box AP of objects by COCO's sizes;
    - ``{group}/mask_ap``, ``{group}/mask_ap50``, ...: the same of masks;
    - ``{group}/top1_ap50``: box AP50 when a box may have one label only, its best;
    - ``{group}/accuracy``: how often the best class at a ground-truth box is the right one.

    The last two need the model's diagnostics (``model.test_cfg.rcnn.diagnostics=True``). NaN for a group without ground
    truth.

    COCO counts 100 detections an image (OADP's code counts up to 1000), LVIS 300.

    Args:
        ann_file: ground truth; relative to ``data_root``.
        split: name or file of the split, or the split.
        metric: what to evaluate of ``bbox`` and ``segm``.
        protocol: ``coco`` or ``lvis``.
        data_root: folder that ``ann_file`` is relative to.
        max_dets: detections that count per image, instead of the protocol's number.
    """

    default_prefix = ""

    def __init__(self, ann_file: str | os.PathLike, split: str | Split, metric: str | Sequence[str] = tuple(KINDS),
                 protocol: str = "coco", data_root: str | os.PathLike = "", max_dets: int | None = None) -> None:
        super().__init__(prefix="")
        self.metrics = (metric,) if isinstance(metric, str) else tuple(metric)
        check_kinds(self.metrics)
        if protocol not in PROTOCOLS:
            raise UserError(f"evaluation protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
        if not isinstance(split, Split):
            split = get_split(str(Path(data_root, split)) if str(split).endswith(".json") else split)
        self.split = split
        self.protocol = protocol
        self.max_dets = max_dets
        self.ann_file = Path(data_root, ann_file)
        self.detections: dict[int, dict] = {}  # of the last evaluation, by image id; on the main process
        self.truth: GroundTruth | None = None
        self.class_ap: dict[str, dict[str, float]] = {}  # of the last one: kind -> class -> AP; on the main process
        if not self.ann_file.is_file():
            raise UserError(f"{self.ann_file}: no such annotation file: make it with ovd build-zsl")

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what the metrics need of a batch: boxes, scores, labels, encoded masks, per image."""
        for sample in data_samples:
            found = sample["pred_instances"]
            record = {"image_id": int(sample["img_id"]), **_columns(found)}
            if "segm" in self.metrics:
                if "masks" not in found:
                    raise UserError("--eval segm: the model predicts no masks; use --eval bbox")
                record["masks"] = PackedMasks.of(encode_masks(found["masks"]))
            if "pred_one_label" in sample:
                record["one_label"] = _columns(sample["pred_one_label"])
            if "gt_pred_labels" in sample:
                record["true_labels"] = _numpy(sample["gt_instances"]["labels"])
                record["labels_at_truth"] = _numpy(sample["gt_pred_labels"])
            self.results.append(record)

    def evaluate(self, size: int) -> dict:
        """Bring the processes' records together by image id (samplers pad with repeated images) and compute.

        Processes send columns; the main one alone reads the annotation file.
        """
        columns = to_columns(self.results)
        self.results.clear()  # what was sent need not be kept
        parts = gather_object(columns, dst=0)
        metrics: list = [None]
        if is_main_process():
            self.detections = merge(parts)
            del parts
            metrics = [self.compute_metrics(list(self.detections.values()))]
        broadcast_object_list(metrics)
        return metrics[0]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """All figures, from the records of all images."""
        truth = self.truth = self.truth or GroundTruth(self.ann_file, self.split.classes)
        groups = groups_of(self.split.all_groups(), truth.frequencies, self.protocol)
        image_ids = [record["image_id"] for record in results]
        settings = {"protocol": self.protocol, "image_ids": image_ids, "max_dets": self.max_dets}
        figures, by_class = ap_figures(truth, _join(results), groups, self.metrics, **settings)
        self.class_ap = {kind: dict(zip(self.split.classes, values.tolist())) for kind, values in by_class.items()}
        if results and all("one_label" in record for record in results):
            one_label = [{"image_id": record["image_id"], **record["one_label"]} for record in results]
            precision = truth.precision(_join(one_label), "bbox", **settings, iou_thresholds=[0.5])
            for group, labels in groups.items():
                figures[group]["top1_ap50"] = group_ap(precision, labels)[0]
        if results and all("labels_at_truth" in record for record in results):
            true = np.concatenate([record["true_labels"] for record in results])
            found = np.concatenate([record["labels_at_truth"] for record in results])
            for group, labels in groups.items():
                figures[group]["accuracy"] = group_accuracy(true, found, labels)
        return {f"{group}/{name}": value for group, row in figures.items() for name, value in row.items()}


def encode_masks(masks: torch.Tensor | np.ndarray) -> list[dict]:
    """Boolean masks ``[N, H, W]`` to run-length encodings ``{"size": [h, w], "counts": bytes}``."""
    masks = _numpy(masks)
    if len(masks) == 0:
        return []
    columns_first = np.asfortranarray(masks.astype(np.uint8, copy=False).transpose(1, 2, 0))
    return hotcoco.mask.encode(columns_first)


def _columns(instances: Any) -> dict[str, np.ndarray]:
    return {"boxes": _numpy(instances["bboxes"]).astype(np.float32), "scores": _numpy(instances["scores"]),
            "labels": _numpy(instances["labels"])}


def _numpy(values: Any) -> np.ndarray:
    if hasattr(values, "tensor"):  # mmdet's box types
        values = values.tensor
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _join(records: list[dict]) -> Detections:
    if not records:
        return Detections(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), [])
    counts = [len(record["scores"]) for record in records]
    masks = [mask for record in records for mask in record["masks"]] if "masks" in records[0] else None
    return Detections(np.repeat([record["image_id"] for record in records], counts),
                      np.concatenate([record["boxes"] for record in records]),
                      np.concatenate([record["scores"] for record in records]),
                      np.concatenate([record["labels"] for record in records]), masks)
