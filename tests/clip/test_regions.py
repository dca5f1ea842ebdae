"""Region embeddings: scales summed raw and then normalised, in batches that run across images."""

import copy
import shutil
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN as CLIP_MEAN
from open_clip import OPENAI_DATASET_STD as CLIP_STD
from PIL import Image

from ovd.clip.crops import CropRecipe, crop_windows
from ovd.clip.regions import RegionEncoder, combine_scales, normalize_pixels
from ovd.clip.towers import ClipModel
from ovd.errors import UserError

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG).eval().requires_grad_(False)
    return ClipModel("tiny", model, open_clip.SimpleTokenizer(context_length=24), 32, open_clip.OPENAI_DATASET_MEAN,
                     open_clip.OPENAI_DATASET_STD, "sha256:tiny", True, torch.device("cpu"))


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    scenes = []
    for count in (3, 0, 7, 1):
        image = Image.fromarray(rng.integers(0, 256, (48, 60, 3), dtype=np.uint8))
        corners = rng.uniform([0, 0], [40, 30], (count, 2))
        scenes.append((image, np.hstack([corners, corners + rng.uniform(4, 18, (count, 2))]).astype(np.float32)))
    return scenes


def plain_embedding(clip, image, box, recipe):
    """One box, one crop at a time, from the formula: normalise(sum over scales of CLIP(crop))."""
    transform = open_clip.image_transform(clip.image_size, is_train=False, mean=clip.mean, std=clip.std)
    total = 0
    for window in crop_windows(np.array([box]), image.width, image.height, recipe)[0]:
        with torch.no_grad():
            total = total + clip.model.encode_image(transform(image.crop(tuple(window)))[None])[0].double()
    return (total / total.norm()).numpy()


def test_embedding_is_the_normalised_sum_of_raw_embeddings(clip, scenes):
    recipe = CropRecipe()
    encoder = RegionEncoder(clip, recipe)
    for image, boxes in scenes:
        rows = encoder(image, boxes)
        assert rows.dtype == np.float16 and rows.shape == (len(boxes), 32)
        for row, box in zip(rows, boxes):
            np.testing.assert_allclose(row, plain_embedding(clip, image, box, recipe), atol=1e-3)


def test_longer_raw_embeddings_count_for_more():
    raw = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    torch.testing.assert_close(combine_scales(raw), torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 1000])
def test_packing_across_images_changes_nothing(clip, scenes, batch_size):
    alone = RegionEncoder(clip, CropRecipe())
    packed = RegionEncoder(clip, CropRecipe(), batch_size=batch_size)
    rows = packed.encode(packed.cropper(image, boxes) for image, boxes in scenes)
    assert [len(part) for part in rows] == [len(boxes) for _, boxes in scenes]
    for part, (image, boxes) in zip(rows, scenes):
        np.testing.assert_allclose(part, alone(image, boxes), atol=2e-3)


def test_forward_passes_have_the_batch_size_but_for_the_last(clip, scenes, monkeypatch):
    sizes = []
    monkeypatch.setattr(ClipModel, "encode_image",
                        lambda self, pixels: sizes.append(len(pixels)) or torch.ones(len(pixels), 32))
    encoder = RegionEncoder(clip, CropRecipe(), batch_size=8)
    encoder.encode(encoder.cropper(image, boxes) for image, boxes in scenes)
    assert sizes == [8, 8, 6]  # 11 boxes, two crops each


def test_with_a_fixed_shape_the_last_forward_pass_is_filled_up_and_the_filling_dropped(clip, scenes, monkeypatch):
    expected = RegionEncoder(clip, CropRecipe(), batch_size=8)
    expected = expected.encode(expected.crop(image, boxes) for image, boxes in scenes)
    sizes, encode = [], ClipModel.encode_image
    monkeypatch.setattr(ClipModel, "encode_image",
                        lambda self, pixels: sizes.append(len(pixels)) or encode(self, pixels))
    encoder = RegionEncoder(clip, CropRecipe(), batch_size=8)
    encoder.fixed_shape = True
    rows = encoder.encode(encoder.crop(image, boxes) for image, boxes in scenes)
    assert sizes == [8, 8, 8]
    assert encoder.clock.read().crops == 22  # those of 11 boxes; the filling does not count
    for part, wanted in zip(rows, expected, strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_a_compiled_tower_gives_the_same_embeddings(clip, scenes):
    plain, compiled = (RegionEncoder(clip, CropRecipe(), 8, compiled=compiled) for compiled in (False, True))
    for image, boxes in scenes:
        np.testing.assert_allclose(compiled(image, boxes), plain(image, boxes), atol=2e-3)


def test_a_tower_that_cannot_be_compiled_is_one_clear_error(clip, scenes):
    def fail(graph, example_inputs):
        raise RuntimeError("no compiler")

    with mock.patch("torch.compile", partial(torch.compile, backend=fail)):
        encoder = RegionEncoder(clip, CropRecipe(), 8, compiled=True)
    with pytest.raises(UserError, match=r"could not be compiled .*--compile off"):
        encoder(*scenes[0])


def test_the_same_sequence_gives_the_same_bytes(clip, scenes):
    runs = []
    for _ in range(2):
        encoder = RegionEncoder(clip, CropRecipe(), batch_size=6)
        runs.append(encoder.encode(encoder.cropper(image, boxes) for image, boxes in scenes))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*runs))


def test_another_cropper_can_take_the_seam(clip, scenes):
    class Grey:
        recipe, side = CropRecipe(), 32

        def __call__(self, image, boxes):
            return torch.full((len(boxes), 2, 3, 32, 32), 128, dtype=torch.uint8)

    rows = RegionEncoder(clip, CropRecipe(), cropper=Grey())(*scenes[0])
    assert (rows == rows[0]).all()


def test_pixels_are_normalised_in_clips_order():
    pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2) * 20
    mean, std = torch.tensor([.1, .2, .3]).view(3, 1, 1), torch.tensor([.5, .6, .7]).view(3, 1, 1)
    expected = (pixels.float() / 255 - mean) / std
    torch.testing.assert_close(normalize_pixels(pixels, (.1, .2, .3), (.5, .6, .7)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_pixels_does_not_change_what_they_become(layout):
    pixels = torch.randint(0, 256, (3, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    expected = (pixels.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    normal = normalize_pixels(pixels.to(memory_format=layout), mean, std)
    assert torch.equal(normal, expected) and normal.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_embeddings_that_mean_nothing_are_refused(clip, scenes, monkeypatch, value):
    monkeypatch.setattr(ClipModel, "encode_image", lambda self, pixels: torch.full((len(pixels), 32), value))
    with pytest.raises(UserError, match="tiny gives embeddings that are not finite or are zero"):
        RegionEncoder(clip, CropRecipe())(*scenes[0])


def test_bad_boxes_are_refused_before_the_model_runs(clip, scenes):
    with pytest.raises(UserError, match="inverted"):
        RegionEncoder(clip, CropRecipe())(scenes[0][0], np.array([[9, 9, 3, 3]], np.float32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 2e-3), (torch.float16, 1e-2)])
def test_the_gpu_gives_the_cpus_embeddings(clip, scenes, precision, tolerance):
    on_gpu = replace(clip, model=copy.deepcopy(clip.model).to("cuda", precision), device=torch.device("cuda"),
                     dtype=precision)
    for image, boxes in scenes:
        expected = RegionEncoder(clip, CropRecipe())(image, boxes)
        np.testing.assert_allclose(RegionEncoder(on_gpu, CropRecipe())(image, boxes), expected, atol=tolerance)
