"""Vectors of shots: those of the boxes one by one, in the order of the shots, and heads of them."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ovd.clip.crops import CropRecipe
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import load_clip, save_described
from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.fewshot.shots import Shot, ShotSet
from ovd.fewshot.support_vectors import SupportVectors, clip_vectors

CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    torch.manual_seed(0)
    save_described(path, open_clip.CLIP(**CLIP), CLIP, None, {})
    return load_clip(str(path))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(root / name)
    return root


def shot_set() -> ShotSet:
    return ShotSet({"gadget": (Shot("b.png", 2, (0, 0, 20, 20)), Shot("a.png", 1, (5, 5, 50, 30)),
                               Shot("b.png", 2, (0, 0, 20, 20))),
                    "widget": (Shot("a.png", 1, (10, 0, 30, 40)), Shot("c.png", 3, (1, 2, 30, 30), 9, (60, 40)))})


def test_vectors_are_those_of_the_boxes_one_by_one(clip, images):
    encoder = RegionEncoder(clip, CropRecipe())
    found = clip_vectors(shot_set(), images, encoder, clip)
    for name, shots in shot_set().classes.items():
        for vector, shot in zip(found.of(name), shots, strict=True):
            alone = encoder(load_rgb(images / shot.image), np.array([shot.box]))[0].astype(np.float64)
            assert np.allclose(vector, alone / np.linalg.norm(alone), atol=1e-3)
    assert torch.allclose(found.vectors_SD.norm(dim=1), torch.ones(5)) and found.vectors_SD.dtype == torch.float32
    assert found.space == {"clip": clip.fingerprint} and found.scale == clip.logit_scale
    assert torch.equal(found.vectors_SD, clip_vectors(shot_set(), images, encoder, clip).vectors_SD)


def test_provenance_says_which_boxes_and_how_they_were_cropped(clip, images):
    found = clip_vectors(shot_set(), images, RegionEncoder(clip, CropRecipe("square", (1.0,))), clip)
    assert found.provenance[1]["boxes"] == [["a.png", 10, 0, 30, 40], ["c.png", 1, 2, 30, 30]]
    assert found.provenance[1]["boxes_hash"] == shot_set().select(["widget"]).hash
    assert found.provenance[1]["recipe"]["kind"] == "square"
    assert found.head().provenance[1]["boxes"] == found.provenance[1]["boxes"]


def vectors(counts=(3, 1, 2), dim=6, **fields) -> SupportVectors:
    rows = torch.randn(sum(counts), dim, generator=torch.Generator().manual_seed(1))
    names = tuple(f"class {label}" for label in range(len(counts)))
    provenance = tuple({"boxes": [[f"{name}.png", 0, 0, 9, i + 1.0] for i in range(count)], "boxes_hash": name}
                       for name, count in zip(names, counts))
    return SupportVectors(names, rows, torch.repeat_interleave(torch.tensor(counts)), {"clip": "sha256:x"}, provenance,
                          **fields)


def test_the_first_shots_are_those_of_each_class():
    whole = vectors()
    two = whole.first(2)
    assert two.class_of_S.tolist() == [0, 0, 1, 2, 2]
    assert torch.equal(two.of("class 0"), whole.of("class 0")[:2])
    assert torch.equal(two.of("class 2"), whole.of("class 2"))
    assert len(two.provenance[0]["boxes"]) == 2 and "boxes_hash" not in two.provenance[0]
    assert two.provenance[2] == whole.provenance[2]
    with pytest.raises(UserError, match="0 shots"):
        whole.first(0)


def test_selected_classes_keep_their_vectors():
    whole = vectors()
    chosen = whole.select(["class 2", "class 0"])
    assert chosen.names == ("class 2", "class 0") and chosen.class_of_S.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(chosen.of("class 0"), whole.of("class 0"))
    assert torch.equal(chosen.of("class 2"), whole.of("class 2"))
    assert chosen.provenance == (whole.provenance[2], whole.provenance[0])
    with pytest.raises(UserError, match="no support vectors of 'class 9'; did you mean"):
        whole.select(["class 9"])


def test_a_prototype_is_the_direction_of_the_mean_vector():
    whole = vectors(scale=30.0)
    head = whole.head("prototype")
    for name in whole.names:
        mean = whole.of(name).double().mean(0)
        row = head.select([name]).weights[0, 0].double()
        assert torch.allclose(row / row.norm(), mean / mean.norm(), atol=1e-6)
    assert head.scale == 30.0 and head.stats["clip"] == "sha256:x" and head.bias is None


def test_heads_have_the_bias_of_a_clip_that_has_one():
    assert vectors(bias=-10.0).head().bias.tolist() == [-10.0] * 3


def test_a_class_without_vectors_is_refused():
    with pytest.raises(UserError, match="the class 'b' has no support vector"):
        SupportVectors(("a", "b"), torch.ones(1, 4), torch.tensor([0]))


@pytest.mark.parametrize(("shot", "message"), [
    (Shot("nowhere.png", 5, (0, 0, 9, 9)), r"nowhere\.png.*no such image"),
    (Shot("a.png", 1, (30, 20, 80, 39)), r"a\.png.*outside the image of 60 x 40"),
    (Shot("a.png", 1, (3, 2, 8, 9), None, (64, 64)), r"a\.png.*64 x 64"),
])
def test_shots_that_do_not_fit_their_images_are_refused_before_work(clip, images, shot, message):
    with pytest.raises(UserError, match=message) as caught:
        clip_vectors(ShotSet({"gadget": (shot,)}), images, RegionEncoder(clip, CropRecipe()), clip)
    assert "\n" not in str(caught.value)
