"""A checkpoint is not used with another style of blocks or other images than it was trained with."""

import pytest
import torch
from safetensors.torch import save_file

from ovd.engine.checkpoints import read_checkpoint
from ovd.engine.conversion.files import convert_checkpoint
from ovd.engine.conversion.resnet import Architecture
from ovd.engine.conversion.usage import check_usage, recorded_usage, usage_record
from ovd.errors import UserError

RGB = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True}
BGR = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "bgr_to_rgb": False}


def model(style="pytorch", images=RGB, kind="mmdet.ResNet"):
    return {"backbone": {"type": kind, "style": style}, "data_preprocessor": images}


def check(path, *args, **kwargs):
    check_usage(path, read_checkpoint(path), model(*args, **kwargs))


def test_final_weights_know_how_they_were_trained(tmp_path):
    path = tmp_path / "final.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": usage_record(model("caffe", BGR))}, path)
    check(path, "caffe", BGR)
    with pytest.raises(UserError, match=r"style is caffe, the config's pytorch.*backbone\.style=caffe"):
        check(path, "pytorch", BGR)
    with pytest.raises(UserError, match="image format is bgr, the config's rgb"):
        check(path, "caffe", RGB)
    assert usage_record(model(kind="ClipResNet")) == {}


def test_a_checkpoint_of_a_run_and_of_mmdet_holds_its_config_as_text(tmp_path):
    path = tmp_path / "iter_10.pth"
    text = "model = dict(backbone=dict(type='ResNet', style='caffe'), data_preprocessor=dict(bgr_to_rgb=True))"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"cfg": text}}, path)
    check(path, "caffe")
    with pytest.raises(UserError, match="the config inside the file"):
        check(path, "pytorch")


def test_what_says_nothing_is_taken_as_it_is(tmp_path):
    path = tmp_path / "caffe_named.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"cfg": "no model"}}, path)
    check(path)
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": usage_record(model("caffe"))}, path)
    check(path, kind="ClipResNet")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_weights_keep_what_their_layout_says(tmp_path, suffix):
    weights = {f"backbone.{name}": torch.zeros(shape) for name, shape in Architecture(18, width=8).shapes.items()}
    save_file(weights, tmp_path / "detpro.safetensors")
    path = tmp_path / f"ours{suffix}"
    convert_checkpoint(tmp_path / "detpro.safetensors", path, ("detpro", "ovd"))
    assert recorded_usage(path, read_checkpoint(path)).style == "caffe"
    with pytest.raises(UserError, match="style is caffe"):
        check(path, "pytorch")


def test_an_accepted_mismatch_is_used_as_accepted(tmp_path, root):
    weights = {f"backbone.{name}": torch.zeros(shape) for name, shape in Architecture(18, width=8).shapes.items()}
    save_file(weights, tmp_path / "detpro.safetensors")
    path = tmp_path / "ours.pth"
    convert_checkpoint(tmp_path / "detpro.safetensors", path, ("detpro", "mmdet3"), config=root / "tests/tiny_vild.py",
                       allow_partial=True, allow_style_mismatch=True)
    assert recorded_usage(path, read_checkpoint(path)).style == "pytorch"
