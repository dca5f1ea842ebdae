"""Crops on the device are Pillow's within a grey level, whichever way they are made and whatever else is asked for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from ovd.clip import batched_resize, device_crops
from ovd.clip.batched_resize import resize_windows
from ovd.clip.bicubic import resize_window, source_windows
from ovd.clip.crops import KINDS, CropRecipe, PillowCropper, crop_windows, resized_views
from ovd.clip.device_crops import DeviceCropper
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import load_clip
from ovd.errors import UserError

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
WAYS = {"in turn": {"dense": False}, "dense": {"dense": True}}
SIZES = [(90, 70), (1, 60), (60, 1), (7, 5), (200, 40)]


def photo(width, height, seed=0):
    """Smooth shades, edges and a little noise, as photos have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    edges = np.asarray(coarse.quantize(6).convert("RGB").filter(ImageFilter.GaussianBlur(0.7)), np.float64)
    pixels = (edges + np.asarray(coarse)) / 2 + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def hard(width, height, seed=0):
    """Every pixel black, grey or white: the resize overshoots wherever it can."""
    return np.random.default_rng(seed).choice([0, 128, 255], size=(height, width, 3)).astype(np.uint8)


def many_boxes(width, height, count, seed=0):
    """Tiny, huge, thin and ordinary boxes, many of them across the border."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(0, np.log([1.5 * width, 1.5 * height]), (count, 2)))
    sizes[0::5] = 1.0
    sizes[1::5, 0] = rng.uniform(0.5, 3, len(sizes[1::5]))
    sizes[2::5, 1] = rng.uniform(0.5, 3, len(sizes[2::5]))
    centres = rng.uniform(0, [width, height], (count, 2))
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1).astype(np.float32)


def plain_crops(image, boxes, recipe, side):
    """One after the other, rows first, in 64 bits."""
    windows = crop_windows(boxes, *image.size, recipe)
    views = resized_views(windows, side, recipe.kind)
    crops = [resize_window(np.asarray(image.crop(tuple(window))), *view.tolist(), side)
             for window, view in zip(windows.reshape(-1, 4).tolist(), views.reshape(-1, 4))]
    return torch.from_numpy(np.stack(crops)).view(*windows.shape[:2], side, side, 3).permute(0, 1, 4, 2, 3)


def levels(crops, expected):
    return (crops.cpu().short() - expected.short()).abs()


def assert_within_a_level(crops, expected):
    difference = levels(crops, expected)
    assert difference.max() <= 2
    assert (difference > 1).sum() <= max(2, 0.001 * difference.numel())


def box_in(width, height):
    """A box that overlaps an image of that size, perhaps larger than it."""
    def build(x, y, w, h, back):
        return [x - back * w, y - back * h, x + w, y + h]
    def number(low, high):
        return st.floats(low, high, width=32)
    return st.builds(build, number(0, width - 0.5), number(0, height - 0.5), number(0.125, 2 * width),
                     number(0.125, 2 * height), st.sampled_from([0.0, 0.25]))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.sampled_from(SIZES), kind=st.sampled_from(KINDS), side=st.sampled_from([16, 33]))
def test_crops_of_any_box_are_pillows_within_a_level(way, data, size, kind, side):
    boxes = np.array(data.draw(st.lists(box_in(*size), min_size=1, max_size=3)), np.float32)
    image, recipe = Image.fromarray(hard(*size)), CropRecipe(kind, (1.0, 1.5))
    crops = DeviceCropper(recipe, side, **WAYS[way])(image, boxes)
    assert_within_a_level(crops, plain_crops(image, boxes, recipe, side))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("box", [
    [0, 10, 200, 11],  # two hundred times as wide as high
    [80, 0, 81, 40],
    [50, 20, 52, 22],  # a hundredfold enlargement
    [-900, -900, 900, 900],
    [0, 0, 200, 40],
])
def test_extreme_boxes_of_a_photo_at_full_size(way, box):
    image, recipe, boxes = photo(200, 40), CropRecipe("clip", (1.0, 1.5)), np.array([box], np.float32)
    crops = DeviceCropper(recipe, 224, **WAYS[way])(image, boxes)
    assert_within_a_level(crops, PillowCropper(recipe, 224)(image, boxes))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("box", [[3, 0, 5, 300], [20, 10, 21, 300]])
def test_rows_come_first_however_tall_the_window(way, box):
    image, recipe, boxes = Image.fromarray(hard(40, 300)), CropRecipe("warp", (1.0,)), np.array([box], np.float32)
    assert_within_a_level(DeviceCropper(recipe, 64, **WAYS[way])(image, boxes), plain_crops(image, boxes, recipe, 64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("kwargs", "share"), [
    (WAYS["in turn"], 0.999), (WAYS["dense"], 0.995), ({"dense": True, "dtype": torch.float16}, 0.9),
], ids=["in turn", "dense", "dense float16"])
def test_most_pixels_of_a_photo_are_pillows_exactly(kind, kwargs, share):
    image, recipe, boxes = photo(120, 90), CropRecipe(kind, (1.0,)), many_boxes(120, 90, 25)
    crops, expected = DeviceCropper(recipe, 48, **kwargs)(image, boxes), plain_crops(image, boxes, recipe, 48)
    assert_within_a_level(crops, expected)
    assert levels(crops, expected).eq(0).double().mean() >= share


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=10, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_a_boxs_crops_do_not_depend_on_the_others(way, kind, seed):
    image, boxes = photo(100, 80, seed), many_boxes(100, 80, 12, seed)
    cropper = DeviceCropper(CropRecipe(kind), 40, **WAYS[way])
    together = cropper(image, boxes)
    alone = torch.cat([cropper(image, box[None]) for box in boxes])
    order = np.random.default_rng(seed).permutation(len(boxes))
    assert torch.equal(together, alone)
    assert torch.equal(cropper(image, boxes[order]), together[torch.from_numpy(order)])


@pytest.mark.parametrize("kind", KINDS)
def test_products_in_32_bits_lose_nothing(kind):
    image, recipe = hard(90, 70), CropRecipe(kind)
    windows = crop_windows(many_boxes(90, 70, 30), 90, 70, recipe)
    views = resized_views(windows, 32, kind)
    problem = torch.from_numpy(image), windows.reshape(-1, 4), views.reshape(-1, 4), 32
    crops = resize_windows(*problem)
    assert torch.equal(crops, resize_windows(*problem, torch.float64))
    assert torch.equal(crops, resize_windows(*problem, memory=1))  # window by window
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crops, resize_windows(*problem))


@pytest.mark.parametrize("way", WAYS)
def test_an_image_may_come_as_pillow_has_it_or_as_an_array_or_as_a_tensor(way):
    pixels, boxes = hard(50, 40), many_boxes(50, 40, 6)
    cropper = DeviceCropper(CropRecipe(), 24, **WAYS[way])
    expected = cropper(Image.fromarray(pixels), boxes)
    flipped = np.ascontiguousarray(pixels[:, ::-1])
    flipped.flags.writeable = False
    for same in (pixels, flipped[:, ::-1], torch.from_numpy(pixels),
                 torch.from_numpy(pixels.transpose(2, 0, 1).copy()).permute(1, 2, 0)):
        assert torch.equal(cropper(same, boxes), expected)
    assert torch.equal(PillowCropper(CropRecipe(), 24)(pixels, boxes),
                       PillowCropper(CropRecipe(), 24)(Image.fromarray(pixels), boxes))


@pytest.mark.parametrize("way", WAYS)
def test_crops_are_bytes_with_channels_last(way):
    crops = DeviceCropper(CropRecipe("warp"), 24, **WAYS[way])(hard(50, 40), many_boxes(50, 40, 6))
    assert (crops.shape, crops.dtype) == ((6, 2, 3, 24, 24), torch.uint8)
    assert crops.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mask", [False, True])
def test_no_boxes_give_no_crops(way, mask):
    crops = DeviceCropper(CropRecipe("warp"), 16, mask=mask, **WAYS[way])(hard(20, 20), np.zeros((0, 4), np.float32))
    assert (crops.shape, crops.dtype) == ((0, 2, 3 + mask, 16, 16), torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_strips_of_large_windows_change_nothing(kind, monkeypatch):
    image, boxes, recipe = photo(120, 90), many_boxes(120, 90, 25), CropRecipe(kind)
    expected = DeviceCropper(recipe, 32)(image, boxes)
    monkeypatch.setattr(device_crops, "_STRIP", 500)
    assert torch.equal(DeviceCropper(recipe, 32)(image, boxes), expected)


def test_the_context_of_a_large_box_may_have_more_pixels_than_pillow_allows():
    image, boxes = Image.new("RGB", (5200, 4600), (200, 100, 50)), np.array([[0, 0, 5200, 4600]], np.float32)
    crop = DeviceCropper(CropRecipe("adaptive", (1.0,)), 32)(image, boxes)[0, 0]
    assert crop[:, 16, 16].tolist() == [200, 100, 50] and not crop[:, 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_all_tensors_of_dense_products_are_on_the_device(dtype, monkeypatch):
    """Without a GPU: tensors that claim to be on one refuse to meet others."""
    def plain(*arguments):
        with unset_fake_temporarily():
            return source_windows(*arguments)

    monkeypatch.setattr(batched_resize, "source_windows", plain)  # it is for the processor
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    boxes = many_boxes(120, 90, 25)
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.zeros(90, 120, 3, dtype=torch.uint8)
        crops = DeviceCropper(CropRecipe("square"), 32, "cuda:1", dtype, mask=True)(image, boxes)
    assert crops.device == torch.device("cuda:1") and crops.shape == (25, 2, 4, 32, 32)


@pytest.mark.parametrize("way", WAYS)
def test_masks_are_those_of_the_reference(way):
    image, boxes, recipe = photo(60, 50), many_boxes(60, 50, 10), CropRecipe("adaptive", (1.0,))
    crops = DeviceCropper(recipe, 40, mask=True, **WAYS[way])(image, boxes)
    expected = PillowCropper(recipe, 40, mask=True)(image, boxes)
    assert crops.shape == expected.shape
    assert torch.equal(crops[:, :, 3], expected[:, :, 3])
    assert_within_a_level(crops[:, :, :3], expected[:, :, :3])


def test_masks_need_crops_that_hold_the_box():
    with pytest.raises(UserError, match="kind"):
        DeviceCropper(CropRecipe("clip"), 16, mask=True)


@pytest.mark.parametrize("way", WAYS)
def test_one_pixel_becomes_a_crop_of_its_colour_and_outside_is_black(way):
    image = hard(9, 9)
    crop = DeviceCropper(CropRecipe("clip", (1.0,)), 224, **WAYS[way])(image, np.array([[4, 5, 5, 6]]))[0, 0]
    assert (crop == torch.from_numpy(image[5, 4]).view(3, 1, 1)).all()
    white = np.full((10, 10, 3), 255, np.uint8)
    crop = DeviceCropper(CropRecipe("adaptive", (1.0,)), 28, **WAYS[way])(white, np.array([[0, 0, 10, 10]]))[0, 0]
    assert crop[:, 14, 14].eq(255).all() and crop[:, :9].eq(0).all() and crop[:, :, :9].eq(0).all()


@pytest.mark.parametrize("way", WAYS)
def test_embeddings_are_those_of_the_reference(way):
    clip = load_clip("shapes")
    recipe, image, boxes = CropRecipe(), photo(160, 120), many_boxes(160, 120, 60)
    found, expected = (
        torch.from_numpy(RegionEncoder(clip, recipe, cropper=cropper).encode([cropper(image, boxes)])[0]).double()
        for cropper in (DeviceCropper(recipe, clip.image_size, **WAYS[way]), PillowCropper(recipe, clip.image_size))
    )
    assert F.cosine_similarity(found, expected).min() >= 0.9999


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_bytes_of_the_same_products_on_a_cpu(device, kind):
    image, recipe, boxes = photo(320, 240), CropRecipe(kind), many_boxes(320, 240, 40)
    cropper = DeviceCropper(recipe, 64, device, mask=kind != "clip")
    expected = DeviceCropper(recipe, 64, mask=kind != "clip", dense=True)(image, boxes)
    assert torch.equal(cropper(image, boxes).cpu(), expected)
    on_device = torch.from_numpy(np.array(image)).to(device)
    with torch.cuda.stream(torch.cuda.Stream()):
        on_device.record_stream(torch.cuda.current_stream())
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        crops = cropper(on_device, boxes)
        torch.cuda.current_stream().synchronize()
    assert crops.is_cuda and torch.equal(crops.cpu(), expected)
    half = DeviceCropper(recipe, 64, device, torch.float16, mask=kind != "clip")(image, boxes)
    assert_within_a_level(half, expected)
