"""Dense CLIP embeddings of boxes against CLIP's own embeddings and plain versions of their parts."""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP
from torch import Tensor

from ovd.clip.dense import DenseEncoder, normalised, resized
from ovd.clip.dense_towers import cut_tower
from ovd.clip.towers import ClipModel, load_clip
from ovd.errors import UserError

TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}


@pytest.fixture(scope="module")
def shapes() -> ClipModel:
    return load_clip("shapes")


def small(**vision) -> ClipModel:
    """A CLIP with a small ViT of random weights."""
    torch.manual_seed(3)
    model = CLIP(24, {**VIT, **vision}, TEXT).eval().requires_grad_(False)
    return ClipModel("small", model, None, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "sha256:small", True,
                     torch.device("cpu"))


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth noise, RGB in 0..255."""
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, (height, width), mode="bilinear")


def whole(count: int, side: int) -> Tensor:
    return torch.tensor([[index, 0, 0, side, side] for index in range(count)], dtype=torch.float32)


@pytest.mark.parametrize("box_stages", [0, 1, 2, 3])
def test_a_box_around_an_image_of_clips_size_has_the_images_embedding(shapes, box_stages):
    images = pictures(3, 64, 64)
    expected = shapes.encode_image(normalised(images, shapes))
    found = DenseEncoder(shapes, box_stages=box_stages)(images, whole(3, 64)[[2, 0, 1]])
    torch.testing.assert_close(found, expected[[2, 0, 1]], rtol=1e-5, atol=1e-5)


def test_an_enlarged_image_has_the_embedding_of_its_enlargement(shapes):
    images = pictures(2, 32, 32)
    expected = shapes.encode_image(normalised(resized(images, 2.0, 32), shapes))
    torch.testing.assert_close(DenseEncoder(shapes, (2.0,))(images, whole(2, 32)), expected, rtol=1e-5, atol=1e-5)


def plain_roi_align(cells_CHW: Tensor, box: list[float], grid: int) -> Tensor:
    """RoIAlign's mean of bilinear samples, ``ceil(bin size)`` a side in each bin (He et al. 2017, sec. 3).

    Args:
        box: In cells; cell ``i`` has its value at ``i + 0.5``.
    """
    _, height, width = cells_CHW.shape
    x1, y1, x2, y2 = box
    step_x, step_y = (x2 - x1) / grid, (y2 - y1) / grid
    number_x, number_y = max(1, math.ceil(step_x)), max(1, math.ceil(step_y))
    result = torch.zeros(len(cells_CHW), grid, grid)
    for row in range(grid):
        for column in range(grid):
            for i in range(number_y):
                for j in range(number_x):
                    y = y1 + step_y * (row + (i + 0.5) / number_y) - 0.5
                    x = x1 + step_x * (column + (j + 0.5) / number_x) - 0.5
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    low_y, low_x = int(y), int(x)
                    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
                    part_y, part_x = y - low_y, x - low_x
                    sample = ((1 - part_y) * (1 - part_x) * cells_CHW[:, low_y, low_x]
                              + (1 - part_y) * part_x * cells_CHW[:, low_y, high_x]
                              + part_y * (1 - part_x) * cells_CHW[:, high_y, low_x]
                              + part_y * part_x * cells_CHW[:, high_y, high_x])
                    result[:, row, column] += sample / (number_x * number_y)
    return result


@torch.inference_mode()
def test_boxes_are_aligned_on_the_map_of_the_resized_image(shapes):
    """Of an image whose size is no multiple of the cell: each axis has its own scale then."""
    images = pictures(2, 72, 104)
    rois = torch.tensor([[1, 10.5, 3, 60.2, 50], [0, 0, 0, 104, 72], [1, 70, 20, 101, 70.5]])
    found = DenseEncoder(shapes, (1.4,), box_stages=1)(images, rois)
    tower = cut_tower(shapes, 1)
    pixels = F.interpolate(images, (96, 160), mode="bicubic", antialias=True).clamp(0, 255)
    features, _ = tower.features(normalised(pixels, shapes))
    assert features.shape[2:] == (6, 10) and tower.grid == 4
    for row, (image, *box) in zip(found, rois.tolist()):
        cells = [side * scale for side, scale in zip(box, (10 / 104, 6 / 72) * 2)]
        expected = tower.embed(plain_roi_align(features[int(image)], cells, 4)[None], None)[0]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.tuples(st.floats(1, 200), st.floats(1, 200)), min_size=1, max_size=5),
       scales=st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.25, 3.0]), min_size=1, max_size=4, unique=True))
def test_each_box_is_taken_from_the_scale_that_brings_it_nearest_to_clips_size(shapes, sizes, scales):
    encoder = DenseEncoder(shapes, scales)
    rois = torch.tensor([[0, 5, 7, 5 + width, 7 + height] for width, height in sizes])
    for level, (width, height) in zip(encoder._levels(rois).tolist(), sizes):
        ratios = [max(r, 1 / r) for r in (math.sqrt(width * height) * scale / 64 for scale in encoder.scales)]
        assert ratios[level] == pytest.approx(min(ratios), rel=1e-4)


def test_boxes_do_not_depend_on_their_company(shapes):
    images = pictures(3, 96, 128)
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(300, 2, generator=generator) * 60
    rois = torch.cat([torch.randint(3, (300, 1), generator=generator), corners,
                      corners + 5 + torch.rand(300, 2, generator=generator) * 30], dim=1)
    encoder = DenseEncoder(shapes, (1.0, 2.0))
    together = encoder(images, rois)
    for index in (0, 150, 299):
        roi = rois[index].clone()
        image, roi[0] = int(roi[0]), 0
        torch.testing.assert_close(encoder(images[image:image + 1], roi[None])[0], together[index], rtol=1e-3,
                                   atol=1e-3)
    assert encoder(images, rois[:0]).shape == (0, 128)


@torch.inference_mode()
@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.3}, {"no_ln_pre": True}])
def test_patches_of_a_class_token_vit_attend_to_themselves_alone(vision):
    """As its last block does with a mask that leaves each token itself."""
    clip = small(**vision)
    visual = clip.model.visual
    images = pictures(2, 32, 32)
    tokens = visual._embeds(normalised(images, clip))
    mask = torch.full((17, 17), -torch.inf).fill_diagonal_(0)
    tokens = visual.transformer.resblocks[1](visual.transformer.resblocks[0](tokens), attn_mask=mask)
    expected = visual.ln_post(tokens[:, 1:]) @ visual.proj
    features, prefix = cut_tower(clip).features(normalised(images, clip))
    assert prefix is None
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(DenseEncoder(clip)(images, whole(2, 32)), expected.mean(dim=1), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_positions_of_another_size_are_open_clips_own_interpolation():
    clip = small(pool_type="avg")
    other = small(pool_type="avg", image_size=(48, 80)).model
    weights = clip.model.state_dict()
    open_clip.model.resize_pos_embed(weights, other)
    other.load_state_dict(weights)
    pixels = normalised(pictures(1, 48, 80), clip)
    tower = cut_tower(clip)
    features, prefix = tower.features(pixels)
    expected = other.visual.transformer(other.visual._embeds(pixels))
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prefix, expected[:, :1], rtol=1e-4, atol=1e-5)
    own = normalised(pictures(1, 32, 32), clip)  # and its own size is still its own
    again, _ = tower.features(own)
    torch.testing.assert_close(again.flatten(2).transpose(1, 2),
                               clip.model.visual.transformer(clip.model.visual._embeds(own))[:, 1:])


@pytest.mark.parametrize("vision", [
    {"pool_type": "avg"}, {"pool_type": "avg", "final_ln_after_pool": True},
    {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}])
def test_towers_that_pool_all_tokens_pool_those_of_the_box(vision):
    clip = small(**vision)
    images = pictures(2, 32, 32)
    torch.testing.assert_close(DenseEncoder(clip)(images, whole(2, 32)),
                               clip.encode_image(normalised(images, clip)), rtol=1e-4, atol=1e-5)


def test_the_clip_itself_stays_as_it_was(shapes):
    clip = small()
    images = pictures(1, 32, 32)
    before = clip.encode_image(normalised(images, clip))
    DenseEncoder(clip, (1.0, 2.0))(images, whole(1, 32))
    assert torch.equal(clip.encode_image(normalised(images, clip)), before)


@pytest.mark.parametrize(("settings_", "part"), [
    ({"scales": ()}, "scales"), ({"scales": (1.0, -2.0)}, "scales"), ({"box_stages": 4}, "box_stages=4")])
def test_settings_without_sense_are_refused(shapes, settings_, part):
    with pytest.raises(UserError, match=part):
        DenseEncoder(shapes, **settings_)


def test_a_transformer_has_no_stages():
    with pytest.raises(UserError, match="no stages"):
        DenseEncoder(small(), box_stages=1)
