"""What an audit found, as plain data for programs: a json object with ids of images and annotations."""

import math
from collections.abc import Mapping
from typing import Any

from ovd.evaluation.audit import Findings

SIMILAR = 3  # annotations of the suggested class that are named with each suspicious label


def as_json(findings: Findings, files: Mapping[int, str]) -> dict[str, Any]:
    """The lists of the report, each in its order; boxes are x, y, width, height in pixels, as annotated.

    Args:
        files: image id -> file name.
    """
    objects = findings.objects
    return {
        "counts": counts(findings),
        "label_errors": [_label_error(findings, int(row), files) for row in findings.ranking],
        "confusions": [{"label": objects.names[label], "suggested": objects.names[other], "objects": count}
                       for label, other, count in findings.confusions()],
        "classes": [{"name": objects.names[label], "objects": number, "counted_as_wrong": wrong,
                     "mean_probability": _rounded(mean)} for label, number, wrong, mean in findings.class_rows()],
        "duplicate_images": [
            {"image_ids": list(group.image_ids), "files": [files[i] for i in group.image_ids],
             "shared_objects": group.shared, "correlation": _rounded(group.correlation), "mirrored": group.mirrored}
            for group in findings.images],
        "duplicate_objects": [
            {"annotation_ids": objects.annotation_ids[list(group.rows)].tolist(),
             "image_ids": objects.image_ids[list(group.rows)].tolist(),
             "labels": [objects.names[objects.labels[row]] for row in group.rows],
             "cosine": _rounded(group.cosine), "correlation": _rounded(group.correlation)}
            for group in findings.same_objects],
        "double_boxes": [
            {"annotation_ids": objects.annotation_ids[list(double.rows)].tolist(),
             "image_id": int(objects.image_ids[double.rows[0]]),
             "file": files[int(objects.image_ids[double.rows[0]])],
             "labels": [objects.names[objects.labels[row]] for row in double.rows],
             "same_class": len({int(objects.labels[row]) for row in double.rows}) == 1, "iou": _rounded(double.iou)}
            for double in findings.doubles],
        "unannotated": None if findings.missing is None else [
            {"image_id": one.image_id, "file": files[one.image_id], "box": _xywh(one.box),
             "looks_like": objects.names[one.label], "score": _rounded(one.score),
             "probability": _rounded(one.probability), "typical": _rounded(one.typical),
             "objectness": _rounded(one.objectness),
             "similar_annotation": int(objects.annotation_ids[one.neighbour])} for one in findings.missing],
    }


def counts(findings: Findings) -> dict[str, int | None]:
    """The numbers at the top of a report."""
    objects = findings.objects
    doubles = [len({int(objects.labels[row]) for row in double.rows}) == 1 for double in findings.doubles]
    return {
        "images": len(objects.store), "objects": len(objects), "objects_without_embedding": objects.left_out,
        "labels_counted_as_wrong": int(findings.labels.confident.sum()), "suspicious_labels": len(findings.ranking),
        "labels_not_judged": int((~(findings.labels.given == findings.labels.given)).sum()),
        "groups_of_duplicate_images": len(findings.images),
        "groups_of_duplicate_objects": len(findings.same_objects),
        "pairs_of_objects_not_compared": findings.unseen_pairs,
        "boxes_drawn_twice": sum(doubles), "boxes_of_two_classes": len(doubles) - sum(doubles),
        "unannotated": None if findings.missing is None else len(findings.missing),
    }


def similar_rows(findings: Findings, row: int, label: int, count: int = SIMILAR) -> list[int]:
    """Rows of the neighbours of an object that have the label, the nearest first."""
    near = [int(other) for other in findings.neighbours[row] if other >= 0]
    return [other for other in near if findings.objects.labels[other] == label][:count]


def _label_error(findings: Findings, row: int, files: Mapping[int, str]) -> dict[str, Any]:
    objects, labels = findings.objects, findings.labels
    suggested = int(labels.suggested[row])
    return {
        "annotation_id": int(objects.annotation_ids[row]), "image_id": int(objects.image_ids[row]),
        "file": files[int(objects.image_ids[row])], "box": _xywh(objects.boxes[row]),
        "label": objects.names[objects.labels[row]], "suggested": objects.names[suggested],
        "score": _rounded(labels.score[row]), "counted_as_wrong": bool(labels.confident[row]),
        "probability_of_label": _rounded(labels.given[row]),
        "probability_of_suggested": _rounded(labels.suggested_probability[row]),
        "neighbours_for_suggested": _rounded(labels.by_vote[row]), "clip_for_suggested": _rounded(labels.by_text[row]),
        "similar_annotations": objects.annotation_ids[similar_rows(findings, row, suggested)].tolist(),
    }


def _xywh(box) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
