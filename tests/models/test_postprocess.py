"""Per-class suppression against a plain version and mmdet's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.layers import multiclass_nms

from ovd.models.postprocess import class_wise_nms, nms_with_budgets
from ovd.models.vild_head import one_label


def scene(boxes: int, classes: int, seed: int, spread: float = 60.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    top_left = torch.rand(boxes, 2, generator=generator) * spread
    size = torch.rand(boxes, 2, generator=generator) * 40 + 2
    scores = torch.randn(boxes, classes + 1, generator=generator).mul(3).softmax(-1)[:, :-1]
    return torch.cat([top_left, top_left + size], 1), scores


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_nms(boxes, scores, score_thr, threshold, limit) -> list[tuple]:
    """(score, label, row) of the kept pairs by falling score, one greedy pass a class."""
    kept = []
    for label in range(scores.shape[1]):
        chosen: list[tuple] = []
        column = [(float(score), row) for row, score in enumerate(scores[:, label]) if score > score_thr]
        for score, row in sorted(column, reverse=True):
            if all(iou(boxes[row].tolist(), boxes[other].tolist()) <= threshold for _, _, other in chosen):
                chosen.append((score, label, row))
        kept += chosen
    return sorted(kept, reverse=True)[:limit]


def as_tuples(result) -> list[tuple]:
    return sorted(zip(result.scores.tolist(), result.labels.tolist(), result.roi_index.tolist()), reverse=True)


@settings(max_examples=40, deadline=None)
@given(boxes=st.integers(0, 25), classes=st.integers(1, 6), limit=st.integers(1, 40), seed=st.integers(0, 9999),
       score_thr=st.sampled_from([1e-4, 0.05, 0.99]))
def test_equals_a_greedy_pass_a_class(boxes, classes, limit, seed, score_thr):
    boxes_N4, scores_NC = scene(boxes, classes, seed)
    result = class_wise_nms(boxes_N4, scores_NC, score_thr, 0.5, limit)
    assert as_tuples(result) == slow_nms(boxes_N4, scores_NC, score_thr, 0.5, limit)
    assert torch.equal(result.bboxes, boxes_N4[result.roi_index])
    assert (result.scores.diff() <= 0).all()


def test_equals_mmdet_with_many_classes():
    boxes_N4, scores_NC = scene(60, 1203, 0)
    result = class_wise_nms(boxes_N4, scores_NC, 1e-4, 0.5, 300)
    padded = torch.cat([scores_NC, torch.zeros(60, 1)], 1)
    theirs, labels = multiclass_nms(boxes_N4, padded, 1e-4, {"type": "nms", "iou_threshold": 0.5}, 300)
    assert torch.allclose(result.scores, theirs[:, 4])
    assert torch.equal(result.labels, labels)
    assert torch.allclose(result.bboxes, theirs[:, :4])


def test_takes_more_candidates_until_enough_survive():
    """All boxes are the same, so each class keeps one: far fewer than the first candidates."""
    boxes_N4, scores_NC = scene(200, 12, 1)
    boxes_N4[:] = boxes_N4[0]
    result = class_wise_nms(boxes_N4, scores_NC, 0.0, 0.5, 10)
    assert sorted(result.labels.tolist()) == sorted(scores_NC.max(0).values.topk(10).indices.tolist())


def test_classes_far_apart_in_a_large_image_are_suppressed_exactly():
    """In single precision, the offset of the last class of LVIS rounds coordinates to an eighth of a pixel."""
    boxes_N4 = torch.tensor([[1000.0, 1000, 1010, 1010.01], [1000, 1000, 1010, 1005]])
    scores_NC = torch.zeros(2, 1203)
    scores_NC[:, 1202] = torch.tensor([0.9, 0.8])
    assert len(class_wise_nms(boxes_N4, scores_NC, 0.1, 0.4998, 300)) == 2
    assert len(class_wise_nms(boxes_N4, scores_NC, 0.1, 0.4990, 300)) == 1


@pytest.mark.parametrize("classes", [1, 7])
def test_one_label_keeps_the_highest_class_of_each_row(classes):
    _, scores_NC = scene(20, classes, 2)
    kept = one_label(scores_NC)
    assert (kept.count_nonzero(dim=1) == 1).all()
    assert torch.equal(kept.max(1).values, scores_NC.max(1).values)
    assert torch.equal(kept.argmax(1), scores_NC.argmax(1))


@settings(max_examples=30, deadline=None)
@given(base=st.integers(0, 4), added=st.integers(0, 4), limit=st.integers(1, 12), seed=st.integers(0, 9999))
def test_with_budgets_each_kind_of_classes_is_suppressed_by_itself(base, added, limit, seed):
    boxes_N4, scores_NC = scene(20, base + added + 1, seed)
    scores_NC = scores_NC[:, :base + added]
    is_base_C = torch.arange(base + added) < base
    result = nms_with_budgets(boxes_N4, scores_NC, is_base_C, 1e-4, 0.5, limit)
    expected = slow_nms(boxes_N4, scores_NC[:, :base], 1e-4, 0.5, limit)
    expected += [(score, label + base, row) for score, label, row in
                 slow_nms(boxes_N4, scores_NC[:, base:], 1e-4, 0.5, limit)]
    assert as_tuples(result) == sorted(expected, reverse=True)
    assert (result.scores.diff() <= 0).all()
