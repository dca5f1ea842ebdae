"""mmcv.ops.nms, batched_nms, soft_nms and nms_match against plain loops."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from mmcv.ops import batched_nms, nms, nms_match, soft_nms


def iou(a, b, offset=0):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def plain_nms(boxes, scores, threshold, offset=0):
    """Greedy NMS; Python's sort is stable, so of equal scores the earlier goes first."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[k], boxes[i], offset) <= threshold for k in kept):
            kept.append(i)
    return kept


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset=0):
    """Soft-NMS as in the paper's figure 2; returns indices and final scores."""
    weights = {
        "naive": lambda o: 0.0 if o >= threshold else 1.0,
        "linear": lambda o: 1 - o if o >= threshold else 1.0,
        "gaussian": lambda o: math.exp(-o * o / sigma),
    }
    scores, rest, kept = list(scores), list(range(len(boxes))), []
    while rest:
        best = max(rest, key=lambda i: scores[i])
        kept.append(best)
        rest.remove(best)
        for i in rest:
            scores[i] *= weights[method](iou(boxes[best], boxes[i], offset))
        rest = [i for i in rest if scores[i] >= min_score]
    return kept, [scores[i] for i in kept]


def random_boxes(random, count, whole=False):
    corner = torch.rand(count, 2, generator=random) * 60
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=random) * 40], dim=1)
    return boxes.round() if whole else boxes


# A grid of eighths: exact in float32, so that ties and IoUs at the threshold are ties in any arithmetic.
eighths = st.integers(0, 80).map(lambda value: value / 8)
box_lists = st.lists(
    st.tuples(eighths, eighths, eighths, eighths, st.integers(0, 16)).map(
        lambda v: ([v[0], v[1], v[0] + v[2], v[1] + v[3]], v[4] / 16)
    ),
    max_size=24,
)


@settings(max_examples=150, deadline=None)
@given(box_lists, st.sampled_from([0.0, 0.25, 0.5, 0.7]), st.sampled_from([0, 1]))
def test_nms_equals_the_plain_version_with_ties(items, threshold, offset):
    boxes = torch.tensor([box for box, _ in items]).reshape(-1, 4)
    scores = torch.tensor([score for _, score in items])
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == plain_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_nms_equals_torchvision(random, count):
    boxes, scores = random_boxes(random, count), torch.rand(count, generator=random)
    _, kept = nms(boxes, scores, 0.5)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, 0.5))


def test_nms_with_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]])  # 10 x 10 and 10 x 5 pixels with offset 1: IoU 0.5 exactly
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5, offset=1)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.49, offset=1)[1].tolist() == [0]
    assert nms(boxes, scores, 0.45, offset=0)[1].tolist() == [0, 1]  # without: 36 / 81


def test_nms_score_threshold_and_max_num_refer_to_the_given_boxes(random):
    boxes, scores = random_boxes(random, 100), torch.rand(100, generator=random)
    _, kept = nms(boxes, scores, 0.4, score_threshold=0.5)
    assert (scores[kept] > 0.5).all()
    chosen = (scores > 0.5).nonzero()[:, 0]
    expected = [int(chosen[i]) for i in plain_nms(boxes[chosen].tolist(), scores[chosen].tolist(), 0.4)]
    assert kept.tolist() == expected
    assert nms(boxes, scores, 0.4, score_threshold=0.5, max_num=3)[1].tolist() == expected[:3]


def test_nms_takes_numpy_arrays_and_returns_them():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], dtype=np.float32)
    dets, kept = nms(boxes, np.array([0.5, 0.9, 0.1], dtype=np.float32), 0.5)
    assert isinstance(dets, np.ndarray)
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nms_takes_other_formats(random, dtype):
    boxes = random_boxes(random, 50, whole=True).to(dtype)
    scores = torch.rand(50, generator=random).to(dtype)
    dets, kept = nms(boxes, scores, 0.5)
    assert dets.dtype == dtype
    assert kept.tolist() == plain_nms(boxes.tolist(), scores.tolist(), 0.5)


@pytest.mark.parametrize("autocast", [False, True])
def test_batched_nms_keeps_classes_apart(random, autocast):
    boxes, scores = random_boxes(random, 80), torch.rand(80, generator=random)
    labels = torch.randint(0, 3, (80,), generator=random)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        dets, kept = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.4})
    expected = []
    for label in range(3):
        members = (labels == label).nonzero()[:, 0]
        expected += [int(members[i]) for i in plain_nms(boxes[members].tolist(), scores[members].tolist(), 0.4)]
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i])
    assert torch.equal(dets[:, :4], boxes[kept])
    everything, _ = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.4, "max_num": 5})
    assert torch.equal(everything, dets[:5])


def test_batched_nms_group_by_group_equals_all_at_once(random):
    boxes, scores = random_boxes(random, 60), torch.rand(60, generator=random)
    labels = torch.randint(0, 4, (60,), generator=random)
    whole = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.4})
    parts = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.4, "split_thr": 10})
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_nms_equals_the_plain_version(random, method, offset):
    for count in (0, 1, 2, 5, 40, 80):
        boxes, scores = random_boxes(random, count, whole=True), torch.rand(count, generator=random)
        dets, kept = soft_nms(boxes, scores, 0.3, sigma=0.5, min_score=0.05, method=method, offset=offset)
        plain, plain_scores = plain_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, method, offset)
        assert kept.tolist() == plain
        assert torch.equal(dets[:, :4], boxes[kept])
        torch.testing.assert_close(dets[:, 4], torch.tensor(plain_scores), rtol=1e-5, atol=1e-6)


def test_soft_nms_breaks_ties_by_the_place_in_mmcvs_array():
    """Keeping box 3 swaps it with box 0, which so falls behind boxes 1 and 2 of the same score."""
    boxes = torch.tensor([[i * 20.0, 0, i * 20 + 10, 10] for i in range(4)])
    _, kept = soft_nms(boxes, torch.tensor([0.5, 0.5, 0.5, 0.9]))
    assert kept.tolist() == [3, 1, 2, 0]


def test_soft_nms_of_mmcvs_own_example_keeps_five():
    boxes = np.array([[4, 3, 5, 3], [4, 3, 5, 4], *[[3, 1, 3, 1]] * 4], dtype=np.float32)
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.0], dtype=np.float32)
    for method in ("naive", "linear", "gaussian"):
        dets, kept = soft_nms(boxes, scores, 0.6, sigma=0.5, method=method)
        assert len(kept) == 5
        assert np.isfinite(dets).all()


def test_soft_nms_does_not_change_its_input(random):
    boxes, scores = random_boxes(random, 30), torch.rand(30, generator=random)
    before = boxes.clone(), scores.clone()
    soft_nms(boxes, scores, 0.3)
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_soft_nms_takes_other_formats(random, dtype):
    boxes = random_boxes(random, 30, whole=True).to(dtype)
    scores = torch.rand(30, generator=random).to(dtype)
    dets, kept = soft_nms(boxes, scores, 0.3, min_score=0.05)
    plain, plain_scores = plain_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, "linear")
    assert dets.dtype == dtype
    assert kept.tolist() == plain
    torch.testing.assert_close(dets[:, 4].float(), torch.tensor(plain_scores), rtol=1e-2, atol=1e-2)


@settings(max_examples=100, deadline=None)
@given(box_lists, st.sampled_from([0.25, 0.5, 0.75]))
def test_nms_match_puts_every_box_in_the_group_of_the_first_it_overlaps(items, threshold):
    dets = torch.tensor([[*box, score] for box, score in items]).reshape(-1, 5)
    boxes, scores = dets[:, :4].tolist(), dets[:, 4].tolist()
    plain = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        home = next((group for group in plain if iou(boxes[group[0]], boxes[i]) >= threshold), None)
        if home is None:
            plain.append([i])
        else:
            home.append(i)
    assert [group.tolist() for group in nms_match(dets, threshold)] == plain
    assert [group.tolist() for group in nms_match(dets.numpy(), threshold)] == plain
