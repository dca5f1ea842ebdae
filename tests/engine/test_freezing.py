"""Frozen parts get no gradients, keep their statistics, and are named."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from ovd.engine.freezing import FreezesParts, freeze
from ovd.errors import UserError


class Network(BaseModel):
    """A backbone with batch normalisation, and a head with a normalised branch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))
        self.head = nn.ModuleDict({"cls_convs": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4), "fc_cls": nn.Linear(4, 2)})

    def forward(self, inputs):
        return self.head["fc_cls"](self.head["norm"](self.head["cls_convs"](self.backbone(inputs))))


class Frozen(FreezesParts, Network):
    """The same with parts frozen."""


@pytest.mark.parametrize(("patterns", "exceptions", "trained"), [
    (["backbone"], [], {"head.cls_convs", "head.norm", "head.fc_cls"}),
    (["backbone.*", "head.cls_*"], [], {"head.norm", "head.fc_cls"}),
    (["*.0.weight"], [], {"backbone.0", "backbone.1", "head.cls_convs", "head.norm", "head.fc_cls"}),
    (["*"], ["head.fc_cls"], {"head.fc_cls"}),
    (["*"], ["head.*.bias"], {"head.cls_convs", "head.norm", "head.fc_cls"}),
])
def test_patterns_name_parameters_and_modules(patterns, exceptions, trained):
    model = Network()
    report = freeze(model, patterns, exceptions)
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rsplit(".", 1)[0] for name in free} == trained
    assert set(report.trainable) == free
    assert set(report.frozen) | free == {name for name, _ in model.named_parameters()}
    assert f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} numbers" in str(report)


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'head\.fc_clss'; did you mean .*head\.fc_cls"):
        freeze(Network(), ["backbone", "head.fc_clss"])
    with pytest.raises(UserError, match="nothing is frozen"):
        Frozen(trainable=["head"])
    with pytest.raises(UserError, match="must be a list"):
        Frozen(frozen="head")


def test_training_changes_neither_weights_nor_statistics_of_what_is_frozen():
    torch.manual_seed(0)
    model = Frozen(frozen=["backbone", "head.cls_convs"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        model.eval()
        model.train()
        assert not model.backbone[1].training and not model.backbone[2].training and model.head["norm"].training
        model(torch.randn(8, 3)).square().sum().backward()
        optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert all(name.startswith(("head.norm", "head.fc_cls")) for name in changed)
    assert {"head.norm.running_mean", "head.fc_cls.weight", "head.norm.weight"} <= changed


def test_a_norm_of_which_a_part_is_trained_follows_the_model():
    model = Frozen(frozen=["backbone.1.weight"])
    assert model.train().backbone[1].training
    assert model.freezing.norms == ()


def test_training_begins_with_saying_what_is_frozen(capsys):
    Frozen(frozen=["backbone"]).init_weights()
    said = capsys.readouterr().out
    assert "frozen: 4 parameters, 24 numbers: backbone" in said
    assert "trained: 6 parameters" in said and "2 normalisation layers" in said
    Frozen().init_weights()
    assert capsys.readouterr().out == ""
