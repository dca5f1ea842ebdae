"""Layer-wise learning-rate decay: the published table, counts per group, a plain loop, the optimisers."""

import pytest
import torch
from mmdet.models import FPN, ResNet, SwinTransformer
from mmdet.models.backbones import ResNetV1d
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn

from ovd.engine.layer_decay import LayerDecayConstructor, LayerTable, group_parameters, group_text, table_of
from ovd.errors import UserError

WIDTH = 4  # of the stem; a real one has 64, the names and counts of tensors are the same


class Detector(BaseModel):
    """A backbone, an FPN with normalisation, and a head."""

    def __init__(self, backbone: nn.Module, norm: str = "BN") -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = FPN([WIDTH], 8, 1, norm_cfg={"type": norm})
        self.head = nn.Linear(8, 3)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.head(inputs)


def resnet(depth: int, **kwargs) -> ResNet:
    kind = ResNetV1d if kwargs.pop("deep_stem", False) else ResNet
    return kind(depth=depth, base_channels=WIDTH, stem_channels=WIDTH, norm_cfg={"type": "SyncBN"}, norm_eval=False,
                frozen_stages=-1, **kwargs)


def groups_of(detector: Detector, **kwargs):
    settings = {"lr": 2.5e-4, "weight_decay": 1e-4, "decay": 0.6, **kwargs}
    return group_parameters(detector, table_of(detector.backbone), **settings)


def factor_by_name(groups) -> dict[str, float]:
    return {name: group.factor for group in groups for name in group.names}


@pytest.fixture(scope="module")
def r50():
    return Detector(resnet(50))


def test_the_factors_of_an_r50_are_the_published_ones(r50):
    factors = factor_by_name(groups_of(r50))
    expected = {"backbone.conv1.weight": 0.046656, "backbone.bn1.bias": 0.046656,
                "backbone.layer1.2.conv3.weight": 0.07776, "backbone.layer1.0.downsample.1.weight": 0.07776,
                "backbone.layer2.3.conv1.weight": 0.1296, "backbone.layer3.0.downsample.0.weight": 0.216,
                "backbone.layer3.2.bn2.bias": 0.216, "backbone.layer3.3.conv1.weight": 0.36,
                "backbone.layer3.5.bn3.weight": 0.36, "backbone.layer4.2.conv2.weight": 0.6,
                "neck.lateral_convs.0.bn.weight": 1.0, "head.bias": 1.0}
    for name, factor in expected.items():
        assert factors[name] == pytest.approx(factor, rel=1e-12), name
    assert sorted(set(factors.values())) == pytest.approx([0.046656, 0.07776, 0.1296, 0.216, 0.36, 0.6, 1.0])


def test_every_parameter_of_an_r50_is_in_one_group_and_the_counts_are_its_architecture_s(r50):
    groups = groups_of(r50)
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, _ in r50.named_parameters())
    convs = {group.layer: len(group.names) for group in groups if group.weight_decay}
    norms = {group.layer: len(group.names) for group in groups if not group.weight_decay}
    # stem; three, four, three, three and three bottlenecks of 3 convolutions, and a downsampling one a stage
    backbone = {0: 1, 1: 10, 2: 12 + 1, 3: 9 + 1, 4: 9, 5: 9 + 1}
    assert convs == {**backbone, 6: 2 + 2}  # the FPN's two, the head's weight and bias
    assert norms == {**{layer: 2 * count for layer, count in backbone.items()}, 6: 4}
    assert sum(backbone.values()) == 53
    assert sum(group.numbers for group in groups) == sum(p.numel() for p in r50.parameters())


@pytest.mark.parametrize(("depth", "last", "blocks"), [
    (101, 11, {0: 3, 2: 3, 3: 4, 11: 6, 12: 7, 20: 9, 21: 10, 22: 10}),
    (152, 11, {0: 3, 22: 10, 23: 10, 35: 10}), (18, 5, {0: 3, 1: 3}), (34, 5, {2: 3, 3: 4, 5: 4})])
def test_the_third_stage_goes_in_threes(depth, last, blocks):
    table = table_of(resnet(depth))
    assert table.last == last
    for block, layer in blocks.items():
        assert table.layer(f"backbone.layer3.{block}.conv1.weight") == layer
    assert table.layer("backbone.layer4.0.conv1.weight") == last
    assert table.layer("roi_head.shared_head.layer4.1.bn1.weight") == last
    assert table.layer("roi_head.bbox_head.fc_cls.weight") is None


def test_an_r101_against_a_plain_loop():
    detector = Detector(resnet(101))
    groups = groups_of(detector, lr=0.5, weight_decay=0.1, decay=0.75, norm_weight_decay=0.02, bias_lr_mult=2.0,
                       bias_weight_decay=0.03)
    ours = {name: (group.lr, group.weight_decay) for group in groups for name in group.names}
    for name, _ in detector.named_parameters():
        parts = name.split(".")
        layer = {"layer1": 1, "layer2": 2, "layer4": 11, "conv1": 0, "bn1": 0}.get(parts[1], 12)
        if parts[0] == "backbone" and parts[1] == "layer3":
            layer = 3 + int(parts[2]) // 3
        rate, wd = 0.5 * 0.75 ** (12 - layer), 0.1
        norm = any(part.startswith("bn") for part in parts) or "downsample.1" in name
        if norm:
            wd = 0.02
        elif parts[-1] == "bias":
            rate, wd = 2 * rate, 0.03
        assert ours[name] == pytest.approx((rate, wd)), name
    assert len(groups) == 12 * 2 + 3  # convolutions and norms of 12 layers; weights, biases and norms of the heads


def test_equal_settings_are_one_group_and_no_decay_is_plain(r50):
    for decay in (0, 1.0):
        groups = groups_of(r50, decay=decay, norm_weight_decay=1e-4)
        assert {group.factor for group in groups} == {1.0} and {group.lr for group in groups} == {2.5e-4}
    settings = [(group.layer, group.lr, group.weight_decay) for group in groups_of(r50)]
    assert len(settings) == len(set(settings)) == 14


def test_frozen_parameters_are_left_out():
    detector = Detector(resnet(50))
    detector.backbone.conv1.requires_grad_(False)
    detector.backbone.bn1.requires_grad_(False)
    assert {group.layer for group in groups_of(detector)} == {1, 2, 3, 4, 5, 6}


def test_a_deep_stem_and_clip_s_tower_have_tables():
    deep = Detector(resnet(50, deep_stem=True))
    factors = factor_by_name(groups_of(deep))
    assert factors["backbone.stem.0.weight"] == pytest.approx(0.046656)
    clip = nn.Module()
    clip.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    clip.stages = nn.ModuleList(nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(n))) for n in (3, 4, 6, 3))
    factors = factor_by_name(groups_of(Detector(clip)))
    assert factors["backbone.stem.1.weight"] == pytest.approx(0.046656)
    assert factors["backbone.stages.2.3.weight"] == pytest.approx(0.36)
    assert factors["backbone.stages.3.0.weight"] == pytest.approx(0.6)


def test_an_unknown_backbone_is_an_error_unless_it_has_a_table():
    swin = Detector(SwinTransformer(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)))
    with pytest.raises(UserError, match="no table for the backbone SwinTransformer"):
        groups_of(swin)
    rules = [(r"backbone\.patch_embed", 0), (r"backbone\.stages\.(\d)\.", 1, 1)]
    with pytest.raises(UserError, match=r"8 parameters of SwinTransformer are in no layer.*backbone\.norm0\.weight"):
        group_parameters(swin, LayerTable(tuple(rules), 4), lr=1, weight_decay=0, decay=0.5)
    table = LayerTable((*rules, (r"backbone\.norm(\d)", 1, 1)), 4)
    factors = factor_by_name(group_parameters(swin, table, lr=1, weight_decay=0, decay=0.5))
    assert factors["backbone.stages.1.blocks.0.norm1.weight"] == 0.5**3
    assert factors["backbone.norm3.bias"] == 0.5 and factors["head.weight"] == 1


@pytest.mark.parametrize("rule", [("x",), ("x(", 1), ("x", 1, 1), ("x", "1"), ("x", 9), (r"x(\d)", 1, 0), ()])
def test_a_rule_that_says_nothing_is_refused(rule):
    with pytest.raises(UserError, match="layer table"):
        LayerTable((rule,), 3)


@pytest.mark.parametrize("optimizer", [
    {"type": torch.optim.AdamW, "lr": 2.5e-4, "weight_decay": 1e-4},
    {"type": "SGD", "lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}])
def test_the_optimiser_learns_at_the_printed_rates(r50, optimizer, capsys):
    wrapper = build_optim_wrapper(r50, {"constructor": LayerDecayConstructor, "optimizer": dict(optimizer),
                                        "paramwise_cfg": {"layer_decay": 0.6, "print_names": True}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("layer decay 0.6 of ResNet:") and ("AdamW" in lines[0]) == (optimizer["type"] != "SGD")
    assert "         backbone.layer3.3.conv1.weight" in lines
    groups = wrapper.optimizer.param_groups
    assert len(groups) == 14 and sum(len(group["params"]) for group in groups) == len(list(r50.parameters()))
    assert groups[0]["lr"] == pytest.approx(optimizer["lr"] * 0.046656)
    assert {group["weight_decay"] for group in groups} == {0.0, 1e-4}
    if optimizer["type"] == "SGD":
        assert all(group["momentum"] == 0.9 and group["nesterov"] for group in groups)
    before = {name: value.detach().clone() for name, value in r50.named_parameters()}
    for parameter in r50.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    after = dict(r50.named_parameters())

    def moved(name: str) -> float:
        return (before[name] - after[name]).abs().mean().item()

    # the first step of AdamW is lr, that of SGD lr x (1 + momentum); the weight decay is nearly nothing
    assert moved("backbone.layer3.4.bn1.bias") / moved("neck.fpn_convs.0.bn.bias") == pytest.approx(0.36, rel=1e-3)
    assert moved("backbone.conv1.weight") / moved("head.weight") == pytest.approx(0.046656, rel=1e-2)


@pytest.mark.parametrize(("options", "message"), [
    ({"layer_decay": 0.6, "norm_decay": 0}, "no option 'norm_decay'; did you mean norm_weight_decay"),
    ({"norm_weight_decay": 0}, "lacks layer_decay"), ({"layer_decay": 1.5}, "not between 0 and 1"),
    ({"layer_decay": 0.5, "layers": {"rules": []}}, "layers must be dict"),
    ({"layer_decay": 0.5, "layers": {"rules": [["x", 7]], "last": 2}}, "layer table")])
def test_wrong_options_are_one_line(r50, options, message):
    with pytest.raises(UserError, match=message):
        build_optim_wrapper(r50, {"constructor": LayerDecayConstructor, "optimizer": {"type": "SGD", "lr": 1},
                                  "paramwise_cfg": options})


def test_the_table_lists_names_on_request(r50):
    groups = groups_of(r50)
    assert len(group_text(groups).splitlines()) == 15
    assert len(group_text(groups, names=True).splitlines()) == 15 + len(list(r50.parameters()))
    assert group_text(groups).splitlines()[1].split()[:2] == ["0", "0.046656"]
