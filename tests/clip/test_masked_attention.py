"""Masked attention: CLIP's own embedding where all is foreground, and the plain formula where it is not."""

import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ovd.clip.crops import CropRecipe, PillowCropper, crop_windows
from ovd.clip.levels import Globals
from ovd.clip.masked_attention import MaskedTower, WholeImageTower
from ovd.clip.positions import resize_positions
from ovd.clip.regions import normalize_pixels
from ovd.clip.shard_job import ImageFile
from ovd.clip.towers import ClipModel
from ovd.errors import UserError

TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
TOWERS = {
    "vit": VIT,
    "quick gelu, layer scale": {**VIT, "ls_init_value": 0.5},
    "blocks of another kind": {**VIT, "qk_norm": True},
    "mean of patches": {**VIT, "pool_type": "avg"},
    "mean of patches, norm after": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "convolutions": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}


def make_clip(vision: dict, quick_gelu: bool = False) -> ClipModel:
    torch.manual_seed(0)
    model = open_clip.CLIP(24, vision, TEXT, quick_gelu=quick_gelu).eval().requires_grad_(False)
    for parameter in model.visual.parameters():
        if (parameter == 0).all():  # open_clip begins some layers at zero; here every one shall matter
            parameter.normal_(std=0.2)
    return ClipModel("tiny", model, None, vision["image_size"], open_clip.OPENAI_DATASET_MEAN,
                     open_clip.OPENAI_DATASET_STD, "sha256:tiny", True, torch.device("cpu"))


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def box_mask(side: int, boxes) -> torch.Tensor:
    """uint8 ``[len(boxes), 1, side, side]``, 1 inside the boxes."""
    mask = torch.zeros(len(boxes), 1, side, side, dtype=torch.uint8)
    for row, (x1, y1, x2, y2) in zip(mask, boxes):
        row[:, y1:y2, x1:x2] = 1
    return mask


def plain_encoding(clip: ClipModel, pixels: torch.Tensor) -> torch.Tensor:
    return clip.encode_image(normalize_pixels(pixels, clip.mean, clip.std))


@pytest.mark.parametrize("name", TOWERS)
def test_with_all_in_the_foreground_the_embedding_is_clips_own(name):
    clip = make_clip(TOWERS[name], quick_gelu="quick" in name)
    pixels = random_pixels(3, 3, clip.image_size, clip.image_size)
    mask = torch.ones_like(pixels[:, :1])
    expected = plain_encoding(clip, pixels)
    torch.testing.assert_close(MaskedTower(clip)(torch.cat([pixels, mask], 1)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(WholeImageTower(clip)(pixels), expected, rtol=0, atol=1e-5)
    half = box_mask(clip.image_size, [(0, 0, clip.image_size, clip.image_size // 2)] * 3)
    assert (MaskedTower(clip)(torch.cat([pixels, half], 1)) - expected).abs().max() > 1e-3


def attend(query, keys, values, seen, heads):
    """One token's attention by the definition, a head at a time: ``[C], [T, C], [T, C], bool [T]`` to ``[C]``."""
    parts = []
    for q, k, v in zip(query.chunk(heads), keys.chunk(heads, 1), values.chunk(heads, 1)):
        weights = [math.exp(float(q @ row) / math.sqrt(len(q))) if ok else 0.0 for row, ok in zip(k, seen)]
        parts.append(sum(w * row for w, row in zip(weights, v)) / sum(weights))
    return torch.cat(parts)


def plain_masked_vit(clip, crop, patch_is_foreground, upsample):
    """One crop through the ViT, a layer at a time, with an extra token beside the normal ones; doubles."""
    tower = clip.model.visual.double()
    kernel = tower.conv1.kernel_size[0]
    padding = (kernel - 1) // 2 if upsample > 1 else 0
    pixels = normalize_pixels(crop[None], clip.mean, clip.std).double()
    grid = F.conv2d(pixels, tower.conv1.weight, stride=kernel // upsample, padding=padding)[0]
    height, width = grid.shape[1:]
    side = math.isqrt(len(tower.positional_embedding) - 1)
    positions = tower.positional_embedding[1:].reshape(side, side, -1).permute(2, 0, 1)[None]
    positions = F.interpolate(positions, (height, width), mode="bilinear", align_corners=False)[0]
    tokens = [tower.class_embedding + tower.positional_embedding[0]]
    tokens += [grid[:, y, x] + positions[:, y, x] for y in range(height) for x in range(width)]
    tokens = tower.ln_pre(torch.stack(tokens))
    extra = tokens[0]
    seen = [patch_is_foreground(y, x) for y in range(height) for x in range(width)] + [True]
    assert any(seen[:-1])
    for block in tower.transformer.resblocks:
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        context = block.ln_1(torch.cat([tokens[1:], extra[None]]))
        query = (block.ln_1(extra) @ weight.T + bias).chunk(3)[0]
        _, keys, values = (context @ weight.T + bias).chunk(3, dim=1)
        extra = extra + block.attn.out_proj(attend(query, keys, values, seen, block.attn.num_heads))
        extra = extra + block.mlp(block.ln_2(extra))
        tokens = block(tokens[None])[0]
    result = tower.ln_post(extra) @ tower.proj
    clip.model.visual.float()
    return result.float()


@pytest.mark.parametrize("upsample", [1, 2, 4])
def test_the_vit_agrees_with_the_formula_layer_by_layer(upsample):
    clip = make_clip(VIT)
    crop = random_pixels(3, 32, 32)
    mask = box_mask(32, [(5, 9, 27, 20)])
    stride = 8 // upsample
    first = 4 if upsample == 1 else 1  # centre of the first patch: its 8 pixels begin at 0, or 3 before the image

    def is_foreground(y, x):
        row, column = (min(first + index * stride, 31) for index in (y, x))
        return 9 <= row < 20 and 5 <= column < 27

    expected = plain_masked_vit(clip, crop, is_foreground, upsample)
    found = MaskedTower(clip, upsample)(torch.cat([crop[None], mask], 1))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_vit_b_32_has_14_by_14_patches_when_upsampled():
    clip = make_clip({"image_size": 224, "layers": 1, "width": 32, "head_width": 32, "patch_size": 32})
    crop, mask = random_pixels(3, 224, 224), box_mask(224, [(70, 90, 150, 140)])
    rows = [(16 * y + 1, 16 * x + 1) for y in range(14) for x in range(14)]
    expected = plain_masked_vit(clip, crop, lambda y, x: bool(mask[0, 0, rows[14 * y + x][0], rows[14 * y + x][1]]), 2)
    tower = MaskedTower(clip, 2)
    assert tower.side == 224
    torch.testing.assert_close(tower(torch.cat([crop[None], mask], 1))[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upsample", [1, 2])
def test_the_attention_pool_agrees_with_the_formula(upsample):
    clip = make_clip({**TOWERS["convolutions"], "image_size": 96})
    side = 96 * upsample
    crop, mask = random_pixels(3, side, side), box_mask(side, [(20, 40, 20 + side // 2, 60 + side // 3)])
    tower, pool = clip.model.visual, clip.model.visual.attnpool
    pixels = normalize_pixels(crop[None], clip.mean, clip.std)
    cells = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))[0]
    grid = 3 * upsample
    seen = [bool(mask[0, 0, 32 * y + 16, 32 * x + 16]) for y in range(grid) for x in range(grid)]
    assert 0 < sum(seen) < len(seen)
    cells = cells.flatten(1).T
    tokens = torch.stack([sum(c for c, ok in zip(cells, seen) if ok) / sum(seen), *cells])
    tokens = tokens + resize_positions(pool.positional_embedding, grid, grid)
    mixed = attend(pool.q_proj(tokens[0]), pool.k_proj(tokens), pool.v_proj(tokens), [True, *seen], pool.num_heads)
    found = MaskedTower(clip, upsample)(torch.cat([crop[None], mask], 1))
    torch.testing.assert_close(found[0], pool.c_proj(mixed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "blocks of another kind"])
def test_the_background_is_seen_by_other_patches_only(name):
    """In one layer no patch has seen another yet, so the background cannot reach the embedding; in three it can."""
    for layers, same in ((1, True), (3, False)):
        tower = MaskedTower(make_clip({**TOWERS[name], "layers": layers}))
        crops = torch.cat([random_pixels(1, 3, 32, 32), box_mask(32, [(8, 8, 24, 16)])], 1).repeat(2, 1, 1, 1)
        crops[1, :3, 16:] = 255 - crops[1, :3, 16:]
        first, second = tower(crops)
        assert torch.allclose(first, second, atol=1e-6) == same


def test_a_box_smaller_than_a_patch_has_the_patch_that_holds_most_of_it():
    tower = MaskedTower(make_clip(VIT))
    pixels = random_pixels(1, 3, 32, 32)
    small, patch = (torch.cat([pixels, box_mask(32, [box])], 1) for box in ((17, 9, 19, 11), (16, 8, 24, 16)))
    torch.testing.assert_close(tower(small), tower(patch))


@pytest.mark.parametrize("name", ["vit", "convolutions"])
def test_a_whole_image_is_neither_resized_nor_cropped(name):
    clip = make_clip(TOWERS[name])
    picture = random_pixels(96, 160, 3)
    row = Globals().encoder(clip, None)(Image.fromarray(picture.numpy()), np.array([[0, 0, 160, 96]]))
    raw = WholeImageTower(clip)(picture.permute(2, 0, 1)[None])
    np.testing.assert_allclose(row, F.normalize(raw), atol=1e-3)
    changed = picture.clone()
    changed[:, -32:] //= 2  # CLIP's own preprocessing cuts these columns off
    assert (WholeImageTower(clip)(changed.permute(2, 0, 1)[None]) - raw).abs().max() > 1e-5
    if name == "convolutions":  # which have no patches of another size: a larger crop is a larger image
        square = random_pixels(1, 3, 128, 128)
        crop = torch.cat([square, torch.ones_like(square[:, :1])], 1)
        torch.testing.assert_close(WholeImageTower(clip)(square), MaskedTower(clip, 2)(crop), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("vit", 8), ("convolutions", 32)])
def test_an_image_smaller_than_a_patch_is_refused_by_name(name, least):
    tower = WholeImageTower(make_clip(TOWERS[name]))
    assert tower.least == least
    assert tower(random_pixels(1, 3, least, least + 1)).shape == (1, 24)
    level = Globals(tower.least)
    assert level.choose(3, ImageFile("a.jpg", least, 90))[0].tolist() == [[0, 0, least, 90]]
    with pytest.raises(UserError, match=f"a.jpg: is 90 x {least - 1}, .* {least} pixels: leave image 3 out"):
        level.choose(3, ImageFile("a.jpg", 90, least - 1))


def test_positions_keep_the_class_token_and_their_own_grid():
    embedding = torch.randn(1 + 9, 4, generator=torch.Generator().manual_seed(0))
    assert resize_positions(embedding, 3, 3) is embedding
    resized = resize_positions(embedding, 6, 3)
    assert torch.equal(resized[0], embedding[0])
    expected = F.interpolate(embedding[1:].T.reshape(1, 4, 3, 3), (6, 3), mode="bilinear")[0].flatten(1).T
    torch.testing.assert_close(resized[1:], expected)


def test_crops_have_a_mask_that_is_set_where_the_box_is():
    recipe = CropRecipe("adaptive", (1.0,), min_size=4)
    image = Image.fromarray(random_pixels(80, 120, 3).numpy())
    boxes = np.array([[30.5, 20, 50, 61], [0, 70, 20, 80], [2, 3, 118, 77]], np.float32)
    crops = PillowCropper(recipe, 40, mask=True)(image, boxes)
    assert crops.shape == (3, 1, 4, 40, 40)
    assert torch.equal(crops[:, :, :3], PillowCropper(recipe, 40)(image, boxes))
    for box, window, crop in zip(boxes, crop_windows(boxes, 120, 80, recipe)[:, 0], crops[:, 0]):
        step = (window[2] - window[0]) / 40
        for row, column in np.ndindex(40, 40):
            x, y = window[0] + (column + 0.5) * step, window[1] + (row + 0.5) * step
            assert crop[3, row, column] == (box[0] <= x < box[2] and box[1] <= y < box[3])


@pytest.mark.parametrize(("vision", "upsample", "says"), [
    (VIT, 3, "patches of tiny are 8 pixels wide"),
    (VIT, 0, "upsample 0"),
    (TOWERS["convolutions"], 1.5, "upsample 1.5"),
    ({**VIT, "attentional_pool": True, "attn_pooler_heads": 2}, 1, "pools by attention"),
])
def test_what_cannot_be_masked_is_refused(vision, upsample, says):
    with pytest.raises(UserError, match=says):
        MaskedTower(make_clip(vision), upsample)


def test_crops_that_may_lose_the_boxes_ends_have_no_mask():
    with pytest.raises(UserError, match="hold all of the box"):
        PillowCropper(CropRecipe(), 32, mask=True)
