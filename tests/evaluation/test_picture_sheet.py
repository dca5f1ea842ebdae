"""Sheets of pictures: everything that is given is on them, whatever its size."""

import numpy as np

from ovd.evaluation.picture_sheet import ALARM, INK, Panel, picture_sheet
from ovd.evaluation.pictures import BLUE, VERMILION, fitted


def panel(height: int, width: int, colour: tuple[int, int, int], **options) -> Panel:
    return Panel(np.full((height, width, 3), colour, np.uint8), "a caption", **options)


def pixels(sheet, colour) -> int:
    return int((np.asarray(sheet) == colour).all(axis=2).sum())


def test_pictures_of_any_size_are_on_the_sheet_to_the_pixel():
    colours = [(10 * n, 20, 30) for n in range(7)]
    panels = [panel(40 + 9 * n, 200 - 11 * n, colour) for n, colour in enumerate(colours)]
    sheet = picture_sheet("title", "subtitle", panels, columns=3)
    assert [pixels(sheet, colour) for colour in colours] == [(40 + 9 * n) * (200 - 11 * n) for n in range(7)]


def test_legend_and_warnings_are_shown_and_take_the_room_that_they_need():
    one = [panel(50, 50, (1, 2, 3))]
    plain = picture_sheet("title", "", one)
    told = picture_sheet("title", "", one, legend=[(BLUE, "base"), (VERMILION, "novel")], warnings=["word " * 100])
    assert pixels(told, BLUE) == pixels(told, VERMILION) == 12 * 12 and pixels(told, ALARM) > 500
    assert pixels(plain, ALARM) == pixels(plain, BLUE) == 0
    assert told.height > plain.height + 80 and told.width == plain.width
    many = picture_sheet("title", "", one, legend=[(BLUE, "a key of some length")] * 30)
    assert pixels(many, BLUE) == 30 * 12 * 12 and many.height > told.height - 80


def test_a_panel_that_is_wrong_is_captioned_in_the_colour_of_warnings():
    right = picture_sheet("", "", [panel(50, 300, (9, 9, 9))])
    wrong = picture_sheet("", "", [panel(50, 300, (9, 9, 9), wrong=True)])
    assert pixels(wrong, ALARM) > 0 == pixels(right, ALARM)
    assert pixels(right, INK) > 0


def test_a_sheet_of_nothing_is_a_sheet():
    assert picture_sheet("title", "subtitle", [], warnings=["nothing"]).height > 50


def test_an_image_is_fitted_with_its_boxes_and_masks():
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 40:120] = 250
    mask = np.zeros((1, 100, 200), bool)
    mask[0, 20:60, 40:120] = True
    for side in (50, 200, 620):
        picture, boxes, masks = fitted(image, np.array([[40, 20, 120, 60.0]]), side, mask)
        assert picture.shape[:2] == masks.shape[1:] == (side // 2, side)
        np.testing.assert_allclose(boxes, np.array([[40, 20, 120, 60]]) * side / 200)
        x1, y1, x2, y2 = boxes[0].round().astype(int)
        assert masks[0, y1 + 1:y2 - 1, x1 + 1:x2 - 1].all() and (picture[y1 + 3:y2 - 3, x1 + 3:x2 - 3] > 200).all()
        assert abs(masks.mean() - mask.mean()) < 0.02
    assert fitted(image, np.zeros((0, 4)), 50)[1].shape == (0, 4)
    assert fitted(image, np.zeros((0, 4)), 50, np.zeros((0, 100, 200), bool))[2].shape == (0, 25, 50)
