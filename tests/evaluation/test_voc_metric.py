"""VOC's average precision against a plain version written from its definition."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.data.annotations import load_annotations
from ovd.evaluation.voc import VocMetric, voc_ap
from ovd.vocabulary.splits import Split

SPLIT = Split("letters", "custom", base=("a",), novel=("b", "c"))


def iou(first, second) -> float:
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    common = max(right - left, 0) * max(bottom - top, 0)
    return common / ((first[2] - first[0]) * (first[3] - first[1])
                     + (second[2] - second[0]) * (second[3] - second[1]) - common)


def plain_ap(detections, truth, label) -> dict[str, float]:
    """By the rules of the VOC devkit: detections (image, box, score, label), truth (image, box, label, difficult)."""
    mine = sorted((d for d in detections if d[3] == label), key=lambda d: -d[2])
    total = sum(t[2] == label and not t[3] for t in truth)
    if not total:
        return {"voc07_ap50": np.nan, "voc_ap50": np.nan}
    taken, points, right = set(), [], 0
    wrong = 0
    for image, box, _, _ in mine:
        here = [(iou(box, t[1]), not t[3], -i) for i, t in enumerate(truth) if t[0] == image and t[2] == label]
        best, _, index = max(here, default=(0, True, 0))
        if best >= 0.5 and truth[-index][3]:
            pass
        elif best >= 0.5 and -index not in taken:
            taken.add(-index)
            right += 1
        else:
            wrong += 1
        points.append((right / total, right / (right + wrong) if right + wrong else 0.0))
    eleven = sum(max([p for r, p in points if r >= k / 10 - 1e-9], default=0) for k in range(11)) / 11
    area, last = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return {"voc07_ap50": 100 * eleven, "voc_ap50": 100 * area}


def boxes():
    side = st.tuples(st.integers(0, 6), st.integers(1, 4)).map(lambda t: (t[0], t[0] + t[1]))
    return st.tuples(side, side).map(lambda t: (t[0][0], t[1][0], t[0][1], t[1][1]))


TRUTH = st.lists(st.tuples(st.integers(1, 3), boxes(), st.integers(0, 2), st.booleans()), min_size=1, max_size=8)
FOUND = st.lists(st.tuples(st.integers(1, 3), boxes(), st.integers(1, 200), st.integers(0, 2)), max_size=15,
                 unique_by=lambda d: d[2]).map(lambda ds: [(d[0], d[1], d[2] / 256, d[3]) for d in ds])


def write(path, truth) -> None:
    path.write_text(json.dumps({
        "images": [{"id": i, "height": 12, "width": 12, "file_name": f"{i}.png"} for i in (1, 2, 3)],
        "annotations": [{"id": n, "image_id": image, "category_id": 7 - label, "iscrowd": int(difficult), "area": 1.0,
                         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
                        for n, (image, box, label, difficult) in enumerate(truth, start=1)],
        "categories": [{"id": 7 - label, "name": name} for label, name in enumerate(SPLIT.classes)]}))


def records(detections) -> list[dict]:
    result = []
    for image in (1, 2, 3):
        here = [d for d in detections if d[0] == image]
        result.append({"image_id": image, "boxes": np.array([d[1] for d in here], np.float32).reshape(-1, 4),
                       "scores": np.array([d[2] for d in here], np.float32),
                       "labels": np.array([d[3] for d in here], np.int64)})
    return result


@settings(max_examples=100, deadline=None)
@given(TRUTH, FOUND)
def test_both_rules_equal_the_plain_version(tmp_path_factory, truth, detections):
    path = tmp_path_factory.getbasetemp() / "truth.json"
    write(path, truth)
    found = voc_ap(records(detections), load_annotations(path), SPLIT)
    for label in range(3):
        for name, value in plain_ap(detections, truth, label).items():
            assert found[name][label] == pytest.approx(value, abs=1e-3, nan_ok=True)


def test_groups_and_difficult_objects_in_the_metric(tmp_path):
    square = (0, 0, 4, 4)
    truth = [(1, square, 0, False), (2, square, 1, False), (2, (6, 6, 10, 10), 1, True)]
    write(tmp_path / "truth.json", truth)
    metric = VocMetric("truth.json", SPLIT, metric="bbox", data_root=tmp_path)
    detections = [(1, square, 0.5, 0), (2, (6, 6, 10, 10), 0.9, 1), (2, square, 0.8, 1), (2, square, 0.7, 1)]
    figures = metric.compute_metrics(records(detections))
    assert figures["base/voc07_ap50"] == figures["novel/voc07_ap50"] == pytest.approx(100)
    assert figures["all/voc_ap50"] == pytest.approx(100)
    assert figures["all/ap50"] == pytest.approx(100)  # a crowd for COCO
    wrong = metric.compute_metrics(records([(1, square, 0.5, 0), (2, square, 0.8, 1), (2, (7, 0, 11, 4), 0.9, 1)]))
    assert wrong["novel/voc07_ap50"] == wrong["novel/voc_ap50"] == pytest.approx(50)
    assert wrong["all/voc07_ap50"] == pytest.approx(75)
