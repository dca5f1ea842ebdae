"""Converting files: from the nests and formats of other projects, with a record, and refusing what would go wrong."""

import argparse
import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ovd.engine.checkpoints import load_exactly, read_checkpoint
from ovd.engine.config import load_config, resolve_types
from ovd.engine.conversion import conventions
from ovd.engine.conversion.convert import convert_weights
from ovd.engine.conversion.files import Origin, convert_checkpoint
from ovd.engine.conversion.report import ConversionRefused
from ovd.engine.conversion.resnet import Architecture
from ovd.engine.conversion.sources import read_source
from ovd.engine.conversion.targets import wanted_by
from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from pipelines.cli import run_stage


def random_weights(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 99, shape) if name.endswith(("tracked", "iterations")) else
            torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def resnet():
    return random_weights(Architecture(50, width=8).shapes)


@pytest.fixture(scope="module")
def tiny(root):
    """The tiny detector's config, its path and what it wants to load."""
    path = root / "tests" / "tiny_vild.py"
    cfg = load_config(path)
    resolve_types(cfg)
    return cfg, path, wanted_by(cfg)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name


def save(path, contents):
    torch.save(contents, path)
    return path


# --- formats -----------------------------------------------------------------------------------------------------


def test_files_of_all_formats_come_back_to_the_bit(tmp_path, resnet):
    steps = [("timm", "r50.pth"), ("detectron2", "d2.pkl"), ("mmdet3", "mm.safetensors"), ("detectron2", "d2.pth"),
             ("torchvision", "back.safetensors")]
    save(tmp_path / "r50.pth", {**resnet, "fc.weight": torch.zeros(2, 2)})
    for (layout, name), (then, target) in itertools.pairwise(steps):
        report = convert_checkpoint(tmp_path / name, tmp_path / target, (layout, then))
        assert report.counts["matched"] == 318 and report.is_whole
    assert_same(load_file(tmp_path / "back.safetensors"), resnet)
    assert_same(read_checkpoint(tmp_path / "d2.pth")["state_dict"], read_source(tmp_path / "d2.pkl").weights)


def test_detectron2_reads_the_pickle(tmp_path, resnet):
    source = save(tmp_path / "resnet50_1kpretrained_timm_style.pth", resnet)
    report = convert_checkpoint(source, tmp_path / "d2.pkl", ("spark", "detectron2"))
    with open(tmp_path / "d2.pkl", "rb") as file:
        contents = pickle.load(file, encoding="latin1")
    assert contents["matching_heuristics"] is True and contents["__author__"]
    assert len(contents["model"]) == 318 and all(type(value) is np.ndarray for value in contents["model"].values())
    np.testing.assert_array_equal(contents["model"]["res4.4.conv2.norm.bias"], resnet["layer3.4.bn2.bias"])
    assert contents["model"]["stem.conv1.norm.num_batches_tracked"].shape == ()
    assert any("STRIDE_IN_1X1 False INPUT.FORMAT RGB" in note for note in report.notes)


def test_a_conversion_says_where_it_comes_from(tmp_path, resnet):
    source = save(tmp_path / "r50.pth", resnet)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for name in ("a.safetensors", "a.pth"):
        convert_checkpoint(source, tmp_path / name, ("timm", "mmdet3"))
        recorded = read_source(tmp_path / name).recorded
        assert recorded["sha256"] == digest and recorded["source"] == "r50.pth"
        assert (recorded["from"], recorded["to"]) == ("timm", "mmdet3")
        assert (recorded["style"], recorded["channels"]) == ("pytorch", "rgb")
    manifest = Manifest.read(tmp_path / "a.pth")
    assert manifest.inputs["checkpoint"] == f"sha256:{digest}" and manifest.counts["matched"] == 318
    assert str(tmp_path) not in json.dumps(recorded) + manifest.path(tmp_path / "a.pth").read_text()


def test_the_same_source_gives_the_same_bytes_and_is_not_converted_twice(tmp_path, resnet):
    source = save(tmp_path / "r50.pth", resnet)
    for name in ("one.safetensors", "two.safetensors"):
        convert_checkpoint(source, tmp_path / name, ("timm", "mmdet3"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    before = os.stat(tmp_path / "one.safetensors").st_mtime_ns
    assert "up to date" in str(convert_checkpoint(source, tmp_path / "one.safetensors", ("timm", "mmdet3")))
    assert os.stat(tmp_path / "one.safetensors").st_mtime_ns == before
    with pytest.raises(UserError, match="pass --overwrite"):
        convert_checkpoint(source, tmp_path / "one.safetensors", ("timm", "spark"))
    convert_checkpoint(source, tmp_path / "one.safetensors", ("timm", "spark"), overwrite=True)
    assert "conv1.weight" in load_file(tmp_path / "one.safetensors")


def test_weights_are_found_in_their_nest(tmp_path, resnet):
    spark = {f"sparse_encoder.sp_cnn.{name}": value for name, value in resnet.items()}
    nested = {"args": "Namespace()", "epoch": 1599, "optimizer": {"state": {0: {"step": torch.zeros(1)}}},
              "module": {**spark, "config": {"mask_ratio": 0.6}}}
    report = convert_checkpoint(save(tmp_path / "spark.pth", nested), tmp_path / "a.pth", ("spark", "torchvision"))
    assert report.left_out == {"config": "no tensor but a dict"}
    assert_same(read_checkpoint(tmp_path / "a.pth")["state_dict"], resnet)
    # the first of state_dict, state, module, model is followed, until there are tensors
    zeros = {name: torch.zeros_like(value) for name, value in resnet.items()}
    both = save(tmp_path / "both.pth", {"model": zeros, "state": {"module": resnet}, "model_ema": zeros})
    convert_checkpoint(both, tmp_path / "b.pth", ("timm", "torchvision"))
    assert_same(read_checkpoint(tmp_path / "b.pth")["state_dict"], resnet)
    convert_checkpoint(both, tmp_path / "c.pth", ("timm", "torchvision"), origin=Origin(entry="model_ema"))
    assert_same(read_checkpoint(tmp_path / "c.pth")["state_dict"], zeros)
    with pytest.raises(UserError, match="no tensors under 'model_emma'; did you mean model_ema"):
        convert_checkpoint(both, tmp_path / "d.pth", ("timm", "torchvision"), origin=Origin(entry="model_emma"))


def test_a_training_checkpoint_may_hold_its_arguments(tmp_path, resnet):
    encoder = {f"module.encoder.{name}": value for name, value in resnet.items()}
    soco = {"opt": argparse.Namespace(lr=0.1, arch="resnet50"), "model": encoder, "epoch": 400}
    report = convert_checkpoint(save(tmp_path / "current.pth", soco), tmp_path / "a.safetensors", ("soco", "mmdet3"))
    assert report.is_whole and report.convention["style"] == "pytorch"


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_that_could_run_code_is_refused(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    marker = tmp_path / "marker"

    class Bad:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    if suffix == ".pth":
        torch.save({"model": {"conv1.weight": torch.zeros(1)}, "x": Bad()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Bad()}))
    with pytest.raises(UserError, match=r"refused|could run code"):
        convert_checkpoint(path, tmp_path / "a.pth", ("timm", "mmdet3"))
    assert not marker.exists() and not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize(("name", "contents", "message"), [
    ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{", "not a readable safetensors file"),
    ("cut.pth", b"PK\x03\x04", "not a readable"), ("cut.pkl", b"\x80\x04\x95", "cannot be read as a pickle")])
def test_damaged_files_are_named(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        convert_checkpoint(tmp_path / name, tmp_path / "a.pth", ("timm", "mmdet3"))


def test_wrong_paths_are_refused_before_work(tmp_path, resnet):
    source = save(tmp_path / "resnet.pth", resnet)
    for target, layouts, message in (("a.bin", ("timm", "mmdet3"), "write one of .safetensors, .pth, .pkl"),
                                     ("a.pkl", ("timm", "mmdet3"), "pickles are for detectron2"),
                                     ("resnet.pth", ("timm", "mmdet3"), "is the source"),
                                     ("a.pth", ("tim", "mmdet3"), "no key layout named 'tim'; did you mean timm")):
        with pytest.raises(UserError, match=message):
            convert_checkpoint(source, tmp_path / target, layouts)
    with pytest.raises(UserError, match=r"resnet50.pth: no such checkpoint; did you mean .*resnet.pth"):
        convert_checkpoint(tmp_path / "resnet50.pth", tmp_path / "a.pth", ("timm", "mmdet3"))
    with pytest.raises(UserError, match="holds no weights"):
        convert_checkpoint(save(tmp_path / "empty.pth", {"meta": {"a": 1}}), tmp_path / "a.pth", ("timm", "mmdet3"))


# --- style and image format --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layout", "style", "channels"), [
    ("resnet50-0676ba61.pth", "torchvision", "pytorch", "rgb"), ("resnet50_a1h.pth", "timm", "pytorch", "rgb"),
    ("resnet50_caffe_bgr.pth", "torchvision", "caffe", "bgr"), ("caffeine.pth", "timm", "pytorch", "rgb"),
    ("resnet50_msra-5891d200.pth", "torchvision", "caffe", "bgr"), ("R-50.pkl", "msra", "caffe", "bgr"),
    ("current_mmdetection_Head.pth", "soco", "pytorch", "rgb"), ("detpro_caffe.pth", "detpro", "caffe", "rgb"),
    ("mask_rcnn_r50_caffe_fpn_1x.pth", "mmdet2", "caffe", "bgr"), ("mask_rcnn_r50_fpn_1x.pth", "mmdet2", None, None),
    ("model_final.pkl", "detectron2", None, None)])
def test_style_and_images_are_told_by_the_source(name, layout, style, channels):
    from ovd.engine.conversion.layouts import get_layout

    found = conventions.of_source(name, always=get_layout(layout).convention, usual=get_layout(layout).usual)
    assert (found.style, found.channels) == (style, channels)
    told = conventions.of_source(name, always=get_layout(layout).convention, style="caffe", channels="rgb")
    assert (told.style, told.channels, told.mean) == ("caffe", "rgb", conventions.IMAGENET_RGB.mean)


MMDET_2 = """model = dict(type='MaskRCNN', backbone=dict(type='ResNet', depth=50, style='{style}'),
    bbox_coder=dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]))
img_norm_cfg = dict(mean=[{mean}], std=[{std}], to_rgb={rgb})"""


@pytest.mark.parametrize(("style", "mean", "std", "rgb"), [
    ("caffe", "103.53, 116.28, 123.675", "1.0, 1.0, 1.0", False),
    ("pytorch", "123.675, 116.28, 103.53", "58.395, 57.12, 57.375", True)])
def test_the_config_inside_an_mmdet_checkpoint_tells(tmp_path, resnet, style, mean, std, rgb):
    weights = {f"backbone.{name}": value for name, value in resnet.items()}
    meta = {"config": MMDET_2.format(style=style, mean=mean, std=std, rgb=rgb), "mmdet_version": "2.3.0", "epoch": 24}
    source = save(tmp_path / "rpn.pth", {"meta": meta, "state_dict": weights})
    report = convert_checkpoint(source, tmp_path / "a.safetensors", ("mmdet2", "ovd"))
    assert (report.convention["style"], report.convention["channels"]) == (style, "rgb" if rgb else "bgr")
    assert report.convention["mean"] == [float(value) for value in mean.split(",")]
    # what a conversion recorded goes with the file, whatever it is then called
    again = convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "caffe.pth", ("ovd", "torchvision"))
    assert again.convention == report.convention | {"evidence": "recorded in the file"}


def test_configs_are_compared_in_what_matters():
    ask = conventions.of_config({
        "backbone": {"type": "mmdet.ResNet"},
        "data_preprocessor": {"bgr_to_rgb": False, "mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0]}})
    assert conventions.MSRA_BGR.differences(ask) == ["style is caffe, the config's pytorch"]
    caffe = conventions.of_config({
        "backbone": {"type": "ResNet", "style": "caffe"},
        "data_preprocessor": {"bgr_to_rgb": False, "mean": [103.939, 116.779, 123.68], "std": [1, 1, 1]}})
    assert conventions.MSRA_BGR.differences(caffe) == []
    assert conventions.IMAGENET_RGB.differences(caffe) == [
        "style is pytorch, the config's caffe", "image format is rgb, the config's bgr"]
    swapped = conventions.Convention("caffe", "bgr", (123.675, 116.28, 103.53), (1.0, 1.0, 1.0))
    assert len(swapped.differences(caffe)) == 1 and "mean" in swapped.differences(caffe)[0]
    assert conventions.Convention().differences(caffe) == [
        "style is not known, the config's caffe", "image format is not known, the config's bgr"]
    assert conventions.MSRA_BGR.differences(conventions.of_config({"backbone": {"type": "SwinTransformer"}})) == []


def test_real_weights_of_caffe_style(shared, tmp_path):
    source = shared / "weights" / "resnet50_imagenet_caffe_bgr_fp16.safetensors"
    report = convert_checkpoint(source, tmp_path / "d2.pkl", ("torchvision", "detectron2"))
    assert report.convention["style"] == "caffe" and report.convention["channels"] == "bgr"
    assert report.backbone == "ResNet-50, 265 of 265 tensors, without batch counters"
    assert report.left_out.keys() == {"fc.weight", "fc.bias"}
    assert any("STRIDE_IN_1X1 True INPUT.FORMAT BGR" in note for note in report.notes)
    convert_checkpoint(tmp_path / "d2.pkl", tmp_path / "back.safetensors", ("detectron2", "torchvision"))
    theirs, ours = load_file(source), load_file(tmp_path / "back.safetensors")
    assert ours.keys() == {name for name in theirs if not name.startswith("fc.")}
    for name, value in ours.items():  # half precision, an infinite variance among them
        assert value.dtype == torch.float16 and value.numpy().tobytes() == theirs[name].numpy().tobytes()
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ovd_conversion"])["style"] == "caffe"


# --- for a config ------------------------------------------------------------------------------------------------


def detpro_checkpoint(path, wanted):
    """A checkpoint of the tiny detector as DetPro's code would have written it."""
    ours = random_weights({name: tensor.shape for name, tensor in wanted.items()})
    theirs = convert_weights(ours, "ovd", "detpro")[0]
    theirs |= {"roi_head.clip_model.visual.proj": torch.zeros(2)}
    return ours, save(path, {"meta": {"epoch": 20}, "state_dict": theirs})


def convert(*arguments):
    return run_stage("convert-checkpoint", [str(argument) for argument in arguments])


def test_the_command_converts_for_a_config_and_the_result_loads(tmp_path, tiny, root):
    cfg, config, wanted = tiny
    ours, source = detpro_checkpoint(tmp_path / "epoch_20.pth", wanted)
    target, report = tmp_path / "vild.safetensors", tmp_path / "report.json"
    command = [sys.executable, root / "tools/convert_checkpoint.py", source, target, "--from", "detpro", "--to", "ovd",
               "--model", config, "--allow-style-mismatch", "--report", report]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "matched      " in done.stdout and "accepted: style is caffe, the config's pytorch" in done.stdout
    written = json.loads(report.read_text())
    assert written["whole"] and written["filled"] == ["roi_head.distillation.iterations"]
    assert written["left_out"] == {"roi_head.clip_model.visual.proj": "the CLIP that training used"}
    ours["roi_head.distillation.iterations"] = torch.tensor(0)
    loaded = read_checkpoint(target)["state_dict"]
    assert_same({name: loaded[name] for name in sorted(loaded)}, {name: ours[name] for name in sorted(ours)})
    from mmdet.registry import MODELS

    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(cfg.model)
        load_exactly(detector, loaded, target)
        pretrained = {"type": "Pretrained", "checkpoint": str(target), "prefix": "backbone."}
        backbone = MODELS.build({**cfg.model.backbone, "init_cfg": pretrained})
        backbone.init_weights()
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], ours["backbone.layer4.1.conv2.weight"])


def test_another_style_is_refused_unless_told(tmp_path, tiny, capsys):
    _, config, wanted = tiny
    _, source = detpro_checkpoint(tmp_path / "epoch_20.pth", wanted)
    common = (source, tmp_path / "a.pth", "--from", "detpro", "--to", "ovd", "--model", config)
    assert convert(*common, "--report", tmp_path / "r.json") == 2
    message = capsys.readouterr().err
    assert "style is caffe, the config's pytorch" in message and "backbone.style" in message
    assert not (tmp_path / "a.pth").exists() and json.loads((tmp_path / "r.json").read_text())["whole"]
    assert convert(*common, "--cfg-options", "+model.backbone.style=caffe") == 0
    assert convert(*common, "--style", "pytorch", "--images", "bgr") == 2
    assert "image format is bgr, the config's rgb" in capsys.readouterr().err
    assert convert(*common, "--style", "pytorch", "--images", "rgb", "--overwrite") == 0
    assert "(as told)" in capsys.readouterr().out
    weights = save(tmp_path / "unknown.pth", read_checkpoint(tmp_path / "a.pth")["state_dict"])
    assert convert(weights, tmp_path / "b.pth", "--from", "mmdet3", "--to", "ovd", "--model", config,
                   "--allow-partial") == 2
    assert "style is not known, the config's pytorch" in capsys.readouterr().err


def test_a_part_of_a_detector_is_taken_only_if_told(tmp_path, tiny, capsys):
    _, config, wanted = tiny
    ours, _ = detpro_checkpoint(tmp_path / "epoch_20.pth", wanted)
    taken = ("backbone.", "neck.", "roi_head.bbox_head.shared")
    part = {name: value for name, value in ours.items() if name.startswith(taken)}
    source = save(tmp_path / "current_mmdetection_Head.pth", {"state_dict": part, "meta": {}})
    arguments = (source, tmp_path / "soco.safetensors", "--from", "soco", "--to", "ovd", "--model", config)
    assert convert(*arguments) == 2
    out, err = capsys.readouterr()
    missing = len(ours) - len(part) - 1  # all but the counter of the distillation
    assert f"missing      {missing}: rpn_head.rpn_conv.weight" in out
    assert "pass --allow-partial to take what fits" in err
    assert not (tmp_path / "soco.safetensors").exists()
    assert convert(*arguments, "--allow-partial") == 0
    loaded = load_file(tmp_path / "soco.safetensors")
    assert loaded.keys() == {*part, "roi_head.distillation.iterations"}


def test_a_refusal_carries_the_report(tmp_path, resnet):
    weights = {name: value for name, value in resnet.items() if name != "conv1.weight"}
    source = tmp_path / "r50.safetensors"
    save_file(weights, source)
    with pytest.raises(ConversionRefused) as refused:
        convert_checkpoint(source, tmp_path / "a.pth", ("timm", "mmdet3"), report_file=tmp_path / "report.json")
    assert refused.value.report.missing == ["backbone.conv1.weight"]
    assert json.loads((tmp_path / "report.json").read_text())["counts"]["missing"] == 1
    convert_checkpoint(source, tmp_path / "a.pth", ("timm", "mmdet3"), allow_partial=True)
    assert len(read_checkpoint(tmp_path / "a.pth")["state_dict"]) == 317
