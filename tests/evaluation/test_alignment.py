"""Proposals of other images, or in other pixels: each usual mistake is recognised, and right ones are left alone."""

import numpy as np
import pytest

from ovd.evaluation.alignment import best_overlaps, check_alignment

WIDTH, HEIGHT = 640, 400
IDS = [7, 3, 11, 25, 2, 19, 40, 5, 31, 13, 17, 23]  # as in the annotation file


def world(seed: int = 0) -> tuple[dict, dict]:
    """Objects and good proposals of every image: each object with some noise, among boxes of nothing."""
    rng = np.random.default_rng(seed)
    objects, proposals = {}, {}
    for image_id in IDS:
        corner = rng.uniform(0, [WIDTH - 140, HEIGHT - 140], (5, 2))
        boxes = np.concatenate([corner, corner + rng.uniform([60, 40], [130, 90], (5, 2))], axis=1)
        objects[image_id] = boxes
        clutter = rng.uniform(0, 200, (20, 2))
        proposals[image_id] = np.concatenate([boxes + rng.uniform(-4, 4, boxes.shape),
                                              np.concatenate([clutter, clutter + 50], axis=1)]).astype(np.float32)
    return objects, proposals


def judged(change=lambda boxes: boxes, of=lambda image_id: image_id):
    objects, proposals = world()
    sizes = dict.fromkeys(IDS, (WIDTH, HEIGHT))
    return check_alignment(objects, lambda image_id: change(proposals[of(image_id)]), sizes, IDS)


def test_proposals_of_their_images_are_left_alone():
    found = judged()
    assert found.problem is None and found.recall > 60 > 5 * found.by_chance


def neighbour(ids, by):
    return lambda image_id: ids[(ids.index(image_id) + by) % len(ids)]


@pytest.mark.parametrize(("ids", "by", "words"), [
    (sorted(IDS), -1, "next image (by ascending id): the entries are shifted by 1"),
    (sorted(IDS), 1, "previous image (by ascending id): the entries are shifted by 1"),
    (IDS, -2, "image 2 places after (in the annotation file's order): the entries are shifted by 2")])
def test_a_shift_is_recognised(ids, by, words):
    found = judged(of=neighbour(ids, by))
    assert found.recall < 15 and words in found.problem


@pytest.mark.parametrize(("there", "here", "order"), [(IDS, sorted(IDS), "json"), (sorted(IDS), IDS, "sorted")])
def test_the_other_order_is_recognised(there, here, order):
    assert f"with --order {order}" in judged(of=lambda image_id: there[here.index(image_id)]).problem


@pytest.mark.parametrize(("change", "words"), [
    (lambda b: b * min(1333 / WIDTH, 800 / HEIGHT), "from 1333 x 800"),
    (lambda b: b / [WIDTH, HEIGHT, WIDTH, HEIGHT], "shares of the image's width and height"),
    (lambda b: np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]), "x, y, width, height"),
    (lambda b: b[:, [1, 0, 3, 2]], "x and y change places")])
def test_boxes_in_other_units_are_recognised(change, words):
    assert words in judged(change).problem


def test_proposals_of_no_image_of_these_are_said_to_be_of_others():
    other = world(seed=9)[1]
    objects, _ = world()
    found = check_alignment(objects, other.get, dict.fromkeys(IDS, (WIDTH, HEIGHT)), IDS)
    assert "belong to other images" in found.problem


def test_too_few_objects_are_no_ground_for_a_judgement():
    assert check_alignment({1: np.zeros((0, 4))}, lambda i: None, {1: (9, 9)}, [1]) is None


def test_only_the_first_proposals_count():
    boxes = np.array([[0, 0, 10, 10.]])
    proposals = np.array([[50, 50, 60, 60], [0, 0, 10, 10.]])
    assert best_overlaps(boxes, proposals, first=1).tolist() == [0] and best_overlaps(boxes, proposals).tolist() == [1]
    assert best_overlaps(boxes, None).tolist() == [0]
