"""Proposal recall against pycocotools' class-agnostic evaluation, and the check for shuffled alignment."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovd.evaluation.recall import (
    IOU_THRESHOLDS,
    ImageBoxes,
    alignment_warning,
    matched_ranks,
    pairwise_iou,
    proposal_recall,
    recall_table,
)

GROUPS = {"base": (0, 1), "novel": (2,), "all": (0, 1, 2)}


def random_boxes(rng: np.random.Generator, count: int, size: int = 100) -> np.ndarray:
    corner = rng.uniform(0, size * 0.7, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(2, size * 0.5, (count, 2))], axis=1)


def scene(rng: np.random.Generator, objects: int, proposals: int) -> ImageBoxes:
    """Objects, some of them side by side, and proposals that are partly near them."""
    objects_G4 = random_boxes(rng, objects)
    near = objects_G4[rng.integers(0, max(objects, 1), proposals)] if objects else random_boxes(rng, proposals)
    jitter = rng.normal(0, 1, (proposals, 4)) * rng.choice([0, 1, 4, 20], (proposals, 1))
    proposals_N4 = near + jitter
    proposals_N4[:, 2:] = np.maximum(proposals_N4[:, 2:], proposals_N4[:, :2] + 1)
    return ImageBoxes(objects_G4, rng.integers(0, 3, objects), proposals_N4)


def reference(images: list[ImageBoxes], labels: tuple[int, ...], limits: tuple[int, ...]) -> np.ndarray:
    """Recall [T, limits] by pycocotools with useCats=0 on the annotations of ``labels`` alone; one crowd an image."""
    annotations, detections = [], []
    for image_id, image in enumerate(images, 1):
        def xywh(box):
            return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
        for box, label in zip(image.objects_G4, image.labels_G):
            if label in labels:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
                                    "bbox": xywh(box), "area": xywh(box)[2] * xywh(box)[3]})
        annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 1,
                            "bbox": [0.0, 0.0, 50.0, 50.0], "area": 2500.0})
        for rank, box in enumerate(image.proposals_N4):
            detections.append({"image_id": image_id, "category_id": 1, "bbox": xywh(box), "score": 1 - rank * 1e-4})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": i + 1} for i in range(len(images))], "annotations": annotations,
                         "categories": [{"id": 1, "name": "object"}]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(limits)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0, 0, :]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objects=st.integers(1, 9), proposals=st.integers(1, 60))
def test_recall_equals_pycocotools_without_categories(seed, objects, proposals):
    rng = np.random.default_rng(seed)
    images = [scene(rng, rng.integers(0, objects + 1), proposals) for _ in range(4)]
    limits = (5, 20, 100)
    result = proposal_recall(images, GROUPS, limits)
    for name, labels in GROUPS.items():
        count = sum(int(np.isin(image.labels_G, labels).sum()) for image in images)
        assert result[name].objects == count
        if count:
            expected = 100 * reference(images, labels, limits)
            np.testing.assert_allclose(list(result[name].average.values()), expected.mean(axis=0), atol=1e-9)
            np.testing.assert_allclose(list(result[name].at_50.values()), expected[0], atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objects=st.integers(1, 8), proposals=st.integers(1, 40))
def test_matching_equals_a_plain_loop(seed, objects, proposals):
    image = scene(np.random.default_rng(seed), objects, proposals)
    iou = pairwise_iou(image.objects_G4, image.proposals_N4)
    expected = np.full((len(IOU_THRESHOLDS), objects), proposals)
    for row, threshold in enumerate(IOU_THRESHOLDS):
        for rank in range(proposals):
            best, best_iou = None, threshold
            for index in range(objects):
                if expected[row, index] == proposals and iou[index, rank] >= best_iou:
                    best, best_iou = index, iou[index, rank]
            if best is not None:
                expected[row, best] = rank
    np.testing.assert_array_equal(matched_ranks(image.objects_G4, image.proposals_N4), expected)


def test_an_object_is_found_once_and_only_within_the_limit():
    box = np.array([[10.0, 10, 20, 20]])
    image = ImageBoxes(box, np.array([0]), np.concatenate([np.tile([[50.0, 50, 60, 60]], (3, 1)), box, box]))
    result = proposal_recall([image], {"all": [0]}, (3, 4))["all"]
    assert result.average == {3: 0.0, 4: 100.0}
    assert result.objects == 1


def test_images_without_objects_or_proposals_count_as_they_should():
    empty = np.zeros((0, 4))
    box = np.array([[0.0, 0, 10, 10]])
    images = [ImageBoxes(empty, np.zeros(0, int), box), ImageBoxes(box, np.array([0]), empty),
              ImageBoxes(box, np.array([0]), box)]
    result = proposal_recall(images, {"base": [0], "novel": [1]}, (100,))
    assert result["base"].average[100] == pytest.approx(50)
    assert result["novel"].objects == 0 and np.isnan(result["novel"].average[100])
    assert recall_table(result).splitlines()[2].split() == ["novel", "0", "-", "-"]


def test_zero_area_proposals_find_nothing():
    image = ImageBoxes(np.array([[0.0, 0, 10, 10]]), np.array([0]), np.zeros((3, 4)))
    assert proposal_recall([image], {"all": [0]}, (100,))["all"].average[100] == 0


def test_shuffled_alignment_is_reported_and_right_alignment_is_not():
    rng = np.random.default_rng(0)
    images = [scene(rng, 5, 100) for _ in range(40)]
    assert alignment_warning(images) is None
    order = rng.permutation(len(images))
    shuffled = [ImageBoxes(image.objects_G4, image.labels_G, images[other].proposals_N4)
                for image, other in zip(images, order)]
    assert "other images" in alignment_warning(shuffled)


def test_a_network_that_finds_little_is_reported():
    rng = np.random.default_rng(1)
    images = []
    for index in range(40):
        image = scene(rng, 5, 100)
        keep = image.proposals_N4 if index < 3 else np.zeros((0, 4))
        images.append(ImageBoxes(image.objects_G4, image.labels_G, keep))
    assert "only" in alignment_warning(images)
