"""Pictures of detections: what is drawn, and that drawing never fails at the borders."""

import itertools

import numpy as np

from ovd.evaluation.pictures import class_colour, draw_instances, readable_scale, side_by_side


def test_masks_are_translucent_and_boxes_thin():
    image = np.full((100, 140, 3), 100, dtype=np.uint8)
    masks = np.zeros((1, 100, 140), dtype=bool)
    masks[0, 40:60, 50:70] = True
    drawn = draw_instances(image, np.array([[40.0, 30.0, 90.0, 80.0]]), ["cat"], [3], masks)
    assert (image == 100).all()  # the input is left as it is
    assert drawn.shape == image.shape
    np.testing.assert_allclose(drawn[50, 60], 0.6 * 100 + 0.4 * np.array(class_colour(3)), atol=1)
    assert tuple(drawn[79, 60]) == class_colour(3)
    assert (drawn[77, 60] == 100).all()


def test_boxes_at_and_beyond_the_borders_are_drawn():
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    boxes = np.array([[-5.0, -5.0, 40.0, 40.0], [29.0, 29.0, 30.0, 30.0], [0.0, 0.0, 0.5, 0.5]])
    drawn = draw_instances(image, boxes, ["a long name that does not fit"] * 3, [0, 1, 2], scores=[0.9, 0.5, 0.1])
    assert drawn.shape == image.shape and drawn.any()


def test_small_images_are_drawn_larger():
    image = np.zeros((100, 120, 3), dtype=np.uint8)
    masks = np.zeros((1, 100, 120), dtype=bool)
    masks[0, 50:, 60:] = True
    drawn = draw_instances(image, np.array([[60.0, 50.0, 120.0, 100.0]]), ["cat"], [0], masks, scale=4)
    assert drawn.shape == (400, 480, 3)
    assert drawn[210:390, 300:470].any(axis=2).all() and not drawn[:150, :200].any()
    assert readable_scale(image) == 4 and readable_scale(np.zeros((480, 640, 3))) == 1


def test_tags_do_not_cover_each_other_where_there_is_room():
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    same = np.array([[100.0, 100.0, 200.0, 200.0]] * 3)
    drawn = draw_instances(image, same, ["cat", "dog", "cow"], [0, 1, 2])
    assert all((drawn == class_colour(label)).all(axis=2).sum() > 150 for label in range(3))


def test_nothing_to_draw_leaves_the_image():
    image = np.full((20, 20, 3), 7, dtype=np.uint8)
    assert (draw_instances(image, np.zeros((0, 4)), [], []) == image).all()


def test_two_pictures_side_by_side_keep_their_pixels():
    left, right = np.full((40, 50, 3), 10, dtype=np.uint8), np.full((40, 50, 3), 200, dtype=np.uint8)
    page = side_by_side(left, right)
    assert (page[-40:, :50] == 10).all() and (page[-40:, -50:] == 200).all()


def test_neighbouring_classes_have_different_colours():
    colours = [class_colour(label) for label in range(20)]
    assert len(set(colours)) == 20
    assert all(np.abs(np.subtract(a, b)).max() > 60 for a, b in itertools.pairwise(colours))
