"""CLIP on crops: its scores and detections equal those of plain loops over regions and classes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import unit_rows

from ovd.errors import UserError
from ovd.models.crop_detector import CropDetector
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions


def regions_and_head(seed, count=7, classes=5, width=6, **head):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(8, 24, (count, 2))]).astype(np.float32)
    rows = unit_rows(rng, count, width).astype(np.float16)
    regions = Regions(boxes, rng.random(count).astype(np.float32), rows)
    names = tuple(f"class {i}" for i in range(classes))
    return regions, ClassHead(names, 3 * unit_rows(rng, classes, width)[:, None], **head)


def plain_probability(row, head, factor):
    """Of each class: softmax of factor * cos, in Python's floats."""
    cosines = []
    for weights in head.weights[:, 0].double().tolist():
        length = math.sqrt(sum(w * w for w in weights)) * math.sqrt(sum(float(x) ** 2 for x in row))
        cosines.append(sum(w * float(x) for w, x in zip(weights, row)) / length)
    powers = [math.exp(factor * (cosine - max(cosines))) for cosine in cosines]
    return [power / sum(powers) for power in powers]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, 0.02, 0.5]))
def test_scores_are_softmax_of_cosines_and_their_geometric_mean_with_objectness(seed, temperature):
    regions, head = regions_and_head(seed, scale=20.0)
    plain = CropDetector(head, temperature=temperature).scores(regions)
    fused = CropDetector(head, temperature=temperature, objectness=True).scores(regions)
    for i, row in enumerate(regions.embeddings):
        expected = plain_probability(row, head, 20.0 if temperature is None else 1 / temperature)
        np.testing.assert_allclose(plain[i], expected, rtol=2e-3, atol=1e-7)
        means = [math.sqrt(p * float(regions.scores[i])) for p in expected]
        np.testing.assert_allclose(fused[i], means, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("objectness", [False, True])
def test_detections_are_those_of_greedy_suppression_class_by_class(objectness):
    regions, head = regions_and_head(3, count=20, scale=4.0)
    detector = CropDetector(head, objectness, score_thr=0.15, nms_iou=0.3, max_per_image=12)
    scores = detector.scores(regions).numpy()
    kept = []
    for label in range(len(head)):
        left = []
        for i in sorted(range(20), key=lambda row: -scores[row, label]):
            if scores[i, label] > 0.15 and all(overlap(regions.boxes[i], regions.boxes[j]) <= 0.3 for j in left):
                left.append(i)
        kept += [(float(scores[i, label]), label, i) for i in left]
    kept = sorted(kept, reverse=True)[:12]
    found = detector.detect(regions)["pred_instances"]
    assert [(label, i) for _, label, i in kept] == list(zip(found.labels.tolist(), found.roi_index.tolist()))
    np.testing.assert_array_equal(found.bboxes, regions.boxes[found.roi_index])


def overlap(a, b):
    sides = [max(0.0, float(min(a[k + 2], b[k + 2]) - max(a[k], b[k]))) for k in (0, 1)]
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def test_with_one_label_a_region_has_its_best_class_only():
    regions, head = regions_and_head(5, scale=4.0)
    detector = CropDetector(head, score_thr=0.0, nms_iou=1.0)
    found = detector.detect(regions, with_one_label=True)
    assert len(found["pred_instances"]) == 7 * 5
    voted = found["pred_one_label"]
    best = detector.scores(regions).argmax(dim=1)
    assert sorted(voted.roi_index.tolist()) == list(range(7))
    assert voted.labels.tolist() == best[voted.roi_index].tolist()


def test_a_head_of_a_sigmoid_clip_judges_each_class_by_itself():
    regions, head = regions_and_head(7, scale=5.0, bias=torch.full((5,), -1.5), stats={"scores": "sigmoid"})
    unit = torch.nn.functional.normalize(head.weights[:, 0]).double()
    cosines = torch.from_numpy(regions.embeddings).double() @ unit.T
    torch.testing.assert_close(CropDetector(head).scores(regions).double(), torch.sigmoid(5 * cosines - 1.5),
                               rtol=2e-3, atol=1e-4)
    with pytest.raises(UserError, match="sigmoid"):
        CropDetector(head, temperature=0.01)


def test_an_image_without_regions_has_no_detections():
    regions, head = regions_and_head(1, count=0)
    for objectness in (False, True):
        assert len(CropDetector(head, objectness).detect(regions)["pred_instances"]) == 0


def test_scores_that_are_no_probabilities_are_refused_as_objectness():
    regions, head = regions_and_head(1)
    odd = Regions(regions.boxes, regions.scores * 30, regions.embeddings)
    with pytest.raises(UserError, match="no probabilities"):
        CropDetector(head, objectness=True).scores(odd)
    CropDetector(head).scores(odd)
