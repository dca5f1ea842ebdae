"""CLIP's convolutional tower as a backbone: values, shapes, what is frozen."""

import pytest
import torch
from open_clip import CLIP, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch.nn import BatchNorm2d

from ovd.clip.towers import load_clip, save_described
from ovd.errors import UserError
from ovd.models.clip_backbone import CLIP_MEAN_255, CLIP_STD_255, ClipResNet


@pytest.fixture(scope="module")
def tower_file(tmp_path_factory):
    """A CLIP of width 8 with one block a stage."""
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
              "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}}
    torch.manual_seed(0)
    clip = CLIP(**config)
    for module in clip.modules():
        if isinstance(module, BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    path = tmp_path_factory.mktemp("clip") / "tower.safetensors"
    save_described(path, clip, config, list(range(1, 18)), {})
    return str(path)


def test_stages_are_those_of_the_image_tower(tower_file):
    images = torch.randn(2, 3, 64, 96)
    visual = load_clip(tower_file).model.visual
    maps = ClipResNet(tower_file).eval()(images)
    with torch.no_grad():
        features = visual.stem(images)
        for index, (name, found) in enumerate(zip(("layer1", "layer2", "layer3", "layer4"), maps)):
            features = getattr(visual, name)(features)
            assert torch.allclose(found, features, atol=1e-5)
            stride = 4 * 2 ** index
            assert found.shape == (2, 32 * 2 ** index, 64 // stride, 96 // stride)


def test_out_indices_choose_stages(tower_file):
    maps = ClipResNet(tower_file, out_indices=(1, 3))(torch.randn(1, 3, 64, 64))
    assert [level.shape[1] for level in maps] == [64, 256]


@pytest.mark.parametrize("frozen_stages", [-1, 0, 2, 4])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(tower_file, frozen_stages):
    backbone = ClipResNet(tower_file, frozen_stages=frozen_stages, norm_eval=False).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    loss = sum(level.square().mean() for level in backbone(torch.randn(2, 3, 64, 64)))
    if frozen_stages < 4:
        loss.backward()
    parts = ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]
    for number, part in enumerate(parts):
        frozen = number <= frozen_stages
        values = [value for name, value in backbone.named_parameters() if name.startswith(part)]
        assert all((value.grad is None) == frozen for value in values)
        means = [name for name in before if name.startswith(part) and name.endswith("running_mean")]
        assert all(torch.equal(before[name], backbone.state_dict()[name]) == frozen for name in means)


def test_norm_eval_keeps_statistics_and_trains_the_rest(tower_file):
    backbone = ClipResNet(tower_file).train()
    norms = [module for module in backbone.modules() if isinstance(module, BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    assert backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_initialisation_of_the_detector_keeps_the_weights(tower_file):
    backbone = ClipResNet(tower_file)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_pixel_statistics_are_clips():
    mean, std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    assert pytest.approx([255 * value for value in mean]) == CLIP_MEAN_255
    assert pytest.approx([255 * value for value in std]) == CLIP_STD_255


def test_a_transformer_is_refused(tmp_path):
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    config = {"embed_dim": 16, "vision_cfg": vision,
              "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}}
    path = tmp_path / "vit.safetensors"
    save_described(path, CLIP(**config), config, list(range(1, 18)), {})
    with pytest.raises(UserError, match="VisionTransformer"):
        ClipResNet(str(path))
