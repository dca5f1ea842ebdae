"""PASCAL VOC's own average precision, beside COCO's.

VOC assigns a detection to the ground truth that it overlaps most (IoU 0.5), in the order of the scores; a second one of
an object is wrong, and one of a difficult object counts neither way. From the curve of precision over recall:

- VOC2007 takes the mean of the precisions at recalls 0, 0.1, ..., 1, each the highest at that recall or beyond;
- VOC2010 and later take the area under the curve, made monotonic.

COCO's AP50 of the same detections has 101 recalls instead of 11, and assigns each detection to the best object that is
still free. mmdet's functions do the arithmetic.
"""

import math
from collections.abc import Sequence

import numpy as np
from mmdet.evaluation.functional import average_precision
from mmdet.evaluation.functional.mean_ap import tpfp_default
from mmdet.registry import METRICS

from ovd.data.annotations import Annotations, load_annotations
from ovd.evaluation.metric import OpenVocabMetric
from ovd.vocabulary.splits import Split

RULES = {"voc07_ap50": "11points", "voc_ap50": "area"}  # figure -> mmdet's name of the rule


@METRICS.register_module()
class VocMetric(OpenVocabMetric):
    """As :class:`~ovd.evaluation.metric.OpenVocabMetric`, and per group, in per cent:

    - ``{group}/voc07_ap50``: VOC2007's 11-point AP, the figure that papers report on VOC2007;
    - ``{group}/voc_ap50``: the area under the curve.

    Ground truth with ``iscrowd`` set is difficult. All detections of an image count.
    """

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """All figures, from the records of all images."""
        figures = super().compute_metrics(results)
        by_class = voc_ap(results, load_annotations(self.ann_file), self.split)
        for group, labels in self.split.all_groups().items():
            for name, values_C in by_class.items():
                present = values_C[labels][~np.isnan(values_C[labels])]
                figures[f"{group}/{name}"] = float(present.mean()) if present.size else math.nan
        return figures


def voc_ap(records: Sequence[dict], annotations: Annotations, split: Split) -> dict[str, np.ndarray]:
    """AP of each class in per cent, ``{rule: [C]}`` with NaN for classes without ground truth that is not difficult.

    Args:
        records: Per image that was searched, ``image_id``, ``boxes [n, 4]`` xyxy, ``scores [n]``, ``labels [n]``.
        annotations: Ground truth; categories are matched to the split's classes by name.
    """
    label_of = {category.id: split.label(category.name) for category in annotations.categories
                if category.name in split}
    truth: dict[tuple[int, int], list] = {}
    for annotation in annotations.annotations:
        if annotation.category_id in label_of:
            truth.setdefault((annotation.image_id, label_of[annotation.category_id]), []).append(annotation)
    result = {name: np.full(len(split.classes), np.nan) for name in RULES}
    for label in range(len(split.classes)):
        scores, hits, total = [], [], 0
        for record in records:
            objects = truth.get((record["image_id"], label), [])
            total += sum(not one.iscrowd for one in objects)
            mine = record["labels"] == label
            dets_n5 = np.column_stack([record["boxes"][mine], record["scores"][mine]])
            if len(dets_n5):
                hits.append(np.vstack(tpfp_default(dets_n5, _boxes(objects, crowd=0), _boxes(objects, crowd=1))))
                scores.append(dets_n5[:, 4])
        if not total:
            continue
        order = np.argsort(-np.concatenate(scores), kind="stable") if scores else []
        right, wrong = np.cumsum(np.hstack(hits)[:, order], axis=1) if scores else np.zeros((2, 0))
        recalls, precisions = right / total, right / np.maximum(right + wrong, np.finfo(np.float32).eps)
        for name, rule in RULES.items():
            result[name][label] = 100 * average_precision(recalls, precisions, mode=rule)
    return result


def _boxes(objects: list, crowd: int) -> np.ndarray:
    """xyxy boxes of the objects that are difficult (``crowd=1``) or not, ``[m, 4]``."""
    boxes = np.array([one.bbox for one in objects if one.iscrowd == crowd], dtype=np.float32).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
