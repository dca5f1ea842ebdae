"""Checkpoints: read without running code, refused when they do not fit, found after an interruption."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from ovd.engine.checkpoints import latest_checkpoint, load_exactly, load_matching, read_checkpoint
from ovd.errors import UserError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_what_mmengine_saves_is_read_without_unpickling_objects(tmp_path, model):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    saved = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
             "message_hub": {"log_scalars": collections.OrderedDict(loss=history), "resumed_keys": {"loss": True}},
             "meta": {"epoch": 1, "score": np.float64(0.5), "palette": [(1, 2, 3)], "array": np.arange(3)}}
    torch.save(saved, tmp_path / "epoch_1.pth")
    read = read_checkpoint(tmp_path / "epoch_1.pth")
    assert read["message_hub"]["log_scalars"]["loss"].mean() == 1.5
    assert read["meta"]["score"] == 0.5
    assert all(torch.equal(read["state_dict"][k], v) for k, v in model.state_dict().items())


class Malicious:
    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("container", [lambda x: x, lambda x: {"state_dict": {}, "meta": x}])
def test_code_in_a_checkpoint_is_not_run(tmp_path, container):
    target = tmp_path / "made by the checkpoint"
    torch.save(container(Malicious(target)), tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth: refused.*mkdir"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not target.exists()


class Reach:
    def __reduce__(self):
        return getattr, (np.ndarray, "tofile")


def test_attributes_cannot_be_reached_through_getattr(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Reach()}, tmp_path / "reach.pth")
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(tmp_path / "reach.pth")


@pytest.mark.parametrize("keep", [0, 10, 500, -200])
def test_a_truncated_checkpoint_is_one_line(tmp_path, model, keep):
    path = tmp_path / "cut.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(UserError, match=r"cut\.pth") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": 1}))
    for name in ("text", "tensor", "empty", "plain"):
        with pytest.raises(UserError, match=f"{name}.pth"):
            read_checkpoint(tmp_path / f"{name}.pth")


def test_a_missing_checkpoint_names_the_nearest(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "final.pth")
    with pytest.raises(UserError, match=r"finel\.pth: no such checkpoint; did you mean .*final\.pth"):
        read_checkpoint(tmp_path / "finel.pth")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s},
                                  lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_other_projects_layouts_are_understood(tmp_path, model, wrap):
    torch.save(wrap(model.state_dict()), tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth")["state_dict"].keys() == model.state_dict().keys()


def test_weights_must_fit_exactly(model):
    weights = dict(model.state_dict())
    before = {k: v.clone() for k, v in weights.items()}
    other = {k: v + 1 for k, v in weights.items()}
    for broken, message in (({k: v for k, v in other.items() if k != "0.bias"}, "missing: 0.bias"),
                            ({**other, "extra": torch.zeros(1)}, "left over: extra"),
                            ({**other, "2.weight": torch.zeros(9, 4)}, r"2.weight is \(9, 4\), the model's \(2, 4\)")):
        with pytest.raises(UserError, match=message):
            load_exactly(model, broken, "x.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    load_exactly(model, other, "x.pth")
    assert torch.equal(model.state_dict()["0.bias"], before["0.bias"] + 1)


def test_weights_to_start_from_are_taken_where_they_fit(model):
    weights = {"0.weight": torch.ones(4, 3), "2.weight": torch.ones(5, 5), "x": torch.ones(1)}
    count, refused = load_matching(model, weights)
    assert (count, refused) == (1, ["2.weight"])
    assert (model[0].weight == 1).all()


def test_the_latest_checkpoint_is_the_furthest(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for name in ("iter_90.pth", "iter_1000.pth", "iter_2000.pth.part", "final.pth", "best_ap_iter_5.pth"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path).name == "iter_1000.pth"
