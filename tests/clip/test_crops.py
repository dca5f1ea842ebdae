"""Windows of boxes, and crops equal to CLIP's own preprocessing."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from ovd.clip.bicubic import resize_window
from ovd.clip.crops import CropRecipe, PillowCropper, check_boxes, crop_windows
from ovd.clip.regions import normalize_pixels
from ovd.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def boxes_in(width, height):
    """Boxes that overlap an image of that size, some of them beyond its border."""
    def ordered(low, high):
        return st.floats(low, high, width=32)
    return st.builds(
        lambda x, y, w, h: [x, y, x + w, y + h],
        ordered(0, width - 1), ordered(0, height - 1), ordered(0.125, width), ordered(0.125, height),
    )


def test_preprocessing_equals_the_tensor_of_clip(shared):
    folder = shared / "data" / "clip_preprocess"
    image = Image.open(folder / "franz-kafka.jpg").convert("RGB")
    cropper = PillowCropper(CropRecipe("clip", (1.0,)), 224)
    crops = cropper(image, np.array([[0, 0, *image.size]], np.float32))
    pixels = normalize_pixels(crops.flatten(0, 1), CLIP_MEAN, CLIP_STD)
    np.testing.assert_array_equal(pixels.numpy(), np.load(folder / "expected_preprocessed_image.npy"))


@settings(max_examples=60, deadline=None)
@given(box=boxes_in(90, 70), side=st.sampled_from([16, 33, 64]))
@example(box=[0.0, 0.0, 90.0, 0.25], side=64)  # a row of one pixel: the windowed resize
@example(box=[3.0, 0.0, 4.0, 70.0], side=16)
@example(box=[10.0, 10.0, 26.0, 26.0], side=16)  # nothing to resize
def test_clip_crops_equal_crop_then_open_clips_transform(box, side):
    image, recipe = noise(90, 70), CropRecipe("clip", (1.0, 1.5))
    windows = crop_windows(np.array([box]), 90, 70, recipe)[0]
    expected = torch.stack([image_transform(side, is_train=False)(image.crop(tuple(window))) for window in windows])
    crops = PillowCropper(recipe, side)(image, np.array([box], np.float32))
    assert crops.shape == (1, 2, 3, side, side)
    torch.testing.assert_close(normalize_pixels(crops[0], CLIP_MEAN, CLIP_STD), expected, rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(box=boxes_in(60, 80))
def test_warped_crops_equal_open_clips_squash(box):
    image, recipe = noise(60, 80), CropRecipe("warp", (1.0,))
    window = crop_windows(np.array([box]), 60, 80, recipe)[0, 0]
    expected = image_transform(32, is_train=False, resize_mode="squash")(image.crop(tuple(window)))
    crops = PillowCropper(recipe, 32)(image, np.array([box]))
    torch.testing.assert_close(normalize_pixels(crops[0], CLIP_MEAN, CLIP_STD)[0], expected, rtol=0, atol=0)


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40), side=st.sampled_from([5, 16]), seed=st.integers(0, 99))
def test_windowed_resize_is_pillows_to_the_last_bit(width, height, side, seed):
    contrast = np.random.default_rng(seed).choice([0, 255, 128], size=(height, width, 3)).astype(np.uint8)
    scale = side / min(width, height)
    out_width, out_height = max(side, int(width * scale)), max(side, int(height * scale))
    left, top = (out_width - side) // 2, (out_height - side) // 3
    whole = Image.fromarray(contrast).resize((out_width, out_height), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((left, top, left + side, top + side)))
    np.testing.assert_array_equal(resize_window(contrast, out_width, out_height, left, top, side), expected)


def plain_window(box, scale, width, height):
    """The rule for one box, step by step: scale about the centre, clamp, whole pixels outward, at least one."""
    x1, y1, x2, y2 = (float(value) for value in box)
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * scale, (y2 - y1) * scale
    window = []
    for centre, extent, limit in [(cx, w, width), (cy, h, height)]:
        low = min(max(centre - extent / 2, 0), limit)
        high = min(max(centre + extent / 2, 0), limit)
        low = min(int(np.floor(low + 1e-3)), limit - 1)
        window.append((low, max(int(np.ceil(high - 1e-3)), low + 1)))
    return [window[0][0], window[1][0], window[0][1], window[1][1]]


@given(boxes=st.lists(boxes_in(50, 30), min_size=1, max_size=5))
def test_windows_follow_the_plain_rule(boxes):
    windows = crop_windows(np.array(boxes), 50, 30, CropRecipe("clip", (1.0, 1.5)))
    assert windows.tolist() == [[plain_window(box, scale, 50, 30) for scale in (1.0, 1.5)] for box in boxes]


def test_context_window_is_one_and_a_half_times_the_box_about_its_centre():
    windows = crop_windows(np.array([[40, 40, 60, 80]]), 200, 200, CropRecipe())
    assert windows[0].tolist() == [[40, 40, 60, 80], [35, 30, 65, 90]]
    x1, x2 = 40.0, 60.0  # DetPro writes it so
    assert (1.25 * x1 - 0.25 * x2, 1.25 * x2 - 0.25 * x1) == (35.0, 65.0)


def test_windows_stop_at_the_image_and_float_noise_adds_no_pixel():
    boxes = np.array([[-5.0, 2.0004, 14.9996, 10.00001]], np.float32)
    windows = crop_windows(boxes, 15, 10, CropRecipe("clip", (1.0,)))
    assert windows[0, 0].tolist() == [0, 2, 15, 10]


def test_nearest_rounding():
    recipe = CropRecipe("clip", (1.0,), rounding="nearest")
    assert crop_windows(np.array([[1.4, 1.6, 7.4, 7.6]]), 9, 9, recipe)[0, 0].tolist() == [1, 2, 7, 8]
    assert crop_windows(np.array([[8.9, 8.9, 9.0, 9.0]]), 9, 9, recipe)[0, 0].tolist() == [8, 8, 9, 9]


@given(box=boxes_in(50, 30), kind=st.sampled_from(["square", "adaptive"]))
def test_squares_are_square_and_inside_where_they_fit(box, kind):
    x1, y1, x2, y2 = crop_windows(np.array([box]), 50, 30, CropRecipe(kind, (1.0,)))[0, 0]
    w, h = box[2] - box[0], box[3] - box[1]
    side = max(w, h) if kind == "square" else (8 * w * h) ** 0.5
    assert x2 - x1 == y2 - y1
    assert abs((x2 - x1) - max(side, 1)) <= 0.51
    for low, high, extent in [(x1, x2, 50), (y1, y2, 30)]:
        assert high - low > extent or (low >= 0 and high <= extent)


def test_a_square_larger_than_the_image_is_centred_on_the_box_and_black_outside():
    image = Image.new("RGB", (10, 10), "white")
    recipe = CropRecipe("adaptive", (1.0,))
    box = np.array([[0, 0, 10, 10]])
    assert crop_windows(box, 10, 10, recipe)[0, 0].tolist() == [-9, -9, 19, 19]
    crop = PillowCropper(recipe, 28)(image, box)[0, 0]
    assert crop[:, 14, 14].eq(255).all() and crop[:, 2, 2].eq(0).all()


def test_no_boxes_give_no_crops():
    assert PillowCropper(CropRecipe(), 16)(noise(20, 20), np.zeros((0, 4))).shape == (0, 2, 3, 16, 16)


@pytest.mark.parametrize(("box", "says"), [
    ([0, 0, np.nan, 5], "not finite"), ([5, 0, 2, 5], "inverted"), ([2, 2, 2, 5], "no area"),
    ([20, 0, 25, 5], "outside"), ([-5, 0, 0, 5], "outside"),
])
def test_bad_boxes_are_refused(box, says):
    with pytest.raises(UserError, match=f"box number 2 of 2 .*{says}"):
        check_boxes(np.array([[1, 1, 4, 4], box]), 20, 20)


def test_small_boxes_are_left_out_on_request():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 3.5, 9], [0, 0, 0, 0]])
    assert check_boxes(boxes, 20, 20, min_size=4).tolist() == [True, False, False]


@pytest.mark.parametrize("settings_", [
    {"kind": "crop"}, {"scales": ()}, {"scales": (1.0, -1.0)}, {"rounding": "up"}, {"min_size": -1},
])
def test_bad_recipes_are_refused(settings_):
    with pytest.raises(UserError):
        CropRecipe(**settings_)
