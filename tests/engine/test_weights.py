"""Pretrained weights are loaded whole or not at all, and a loaded backbone computes what its file was trained to."""

import json
import pickle

import numpy as np
import pytest
import torch
import torchvision
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ovd.engine.weights import PretrainedWeights, load_weights, read_weights
from ovd.errors import UserError

CAFFE_MEAN = torch.tensor([103.939, 116.779, 123.68])[:, None, None]  # BGR


def resnet50(style, **init_cfg):
    from mmdet.models.backbones import ResNet

    model = ResNet(depth=50, style=style, init_cfg={"type": "Pretrained", **init_cfg} if init_cfg else None)
    if init_cfg:
        with DefaultScope.overwrite_default_scope("mmdet"):
            model.init_weights()
    model.eval()
    return model


def torchvision_resnet50(style):
    """torchvision's own network with random statistics; for caffe style, its strides are moved by hand."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    if style == "caffe":
        for layer in (model.layer2, model.layer3, model.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return model.eval()


def save(model, path):
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(weights, path)
    return weights


def last_features(model, images):
    if isinstance(model, torchvision.models.ResNet):
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        return model.layer4(model.layer3(model.layer2(model.layer1(x))))
    return model(images)[-1]


@pytest.mark.parametrize("style", ["caffe", "pytorch"])
def test_a_resnet_in_torchvisions_names_computes_the_same_in_mmdet(tmp_path, style):
    reference = torchvision_resnet50(style)
    save(reference, tmp_path / "resnet50.safetensors")
    model = resnet50(style, checkpoint=str(tmp_path / "resnet50.safetensors"))
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(last_features(model, images), last_features(reference, images))


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_the_report_counts_what_matched_and_allows_the_classifier(tmp_path):
    source, target = small(), small()
    weights = {**source.state_dict(), "fc.weight": torch.ones(2, 2)}
    weights.pop("1.num_batches_tracked")
    report = load_weights(target, weights, "x.safetensors")
    assert len(report.matched) == 6
    assert report.left_over == ("fc.weight",)
    assert not report.missing
    assert not report.reshaped
    assert str(report) == "x.safetensors: 6 tensors loaded; 1 left over: fc.weight"
    assert torch.equal(target[0].weight, source[0].weight)


def test_half_precision_files_fill_float32_modules():
    source, target = small(), small()
    load_weights(target, {name: value.half() for name, value in source.state_dict().items()}, "x")
    assert target[0].weight.dtype == torch.float32
    torch.testing.assert_close(target[0].weight, source[0].weight.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "change, name",
    [
        (lambda weights: weights.pop("1.running_var"), "1.running_var"),
        (lambda weights: weights.update({"2.weight": torch.ones(1)}), "2.weight"),
        (lambda weights: weights.update({"0.weight": torch.ones(4, 3, 3, 3)}), "0.weight"),
    ],
    ids=["missing", "left over", "other shape"],
)
def test_a_partial_match_is_refused_unless_it_is_allowed(change, name):
    target = small()
    weights = {key: value + 1 for key, value in small().state_dict().items()}
    change(weights)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(UserError, match=name):
        load_weights(target, weights, "x.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    load_weights(target, weights, "x.safetensors", allow=[name])
    assert torch.equal(target[0].bias, weights["0.bias"])


def test_a_file_of_which_nothing_matches_is_refused_whatever_is_allowed():
    with pytest.raises(UserError, match="0 tensors loaded"):
        load_weights(small(), {"other": torch.ones(1)}, "x.safetensors", allow=["*"])


def test_init_cfg_refuses_a_backbone_of_another_depth(tmp_path):
    save(torchvision.models.resnet18(), tmp_path / "resnet18.safetensors")
    with pytest.raises(UserError, match=r"resnet18\.safetensors.*not the weights of ResNet"):
        resnet50("pytorch", checkpoint=str(tmp_path / "resnet18.safetensors"))


def test_a_prefix_takes_one_part_of_a_detector(tmp_path):
    source, target = small(), small()
    weights = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": {**weights, "neck.weight": torch.ones(1)}, "meta": {}}, tmp_path / "detector.pth")
    PretrainedWeights(str(tmp_path / "detector.pth"), prefix="backbone")(target)
    assert torch.equal(target[0].weight, source[0].weight)
    with pytest.raises(UserError, match=r"neck2\.\*"):
        PretrainedWeights(str(tmp_path / "detector.pth"), prefix="neck2.")(target)


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("the checkpoint ran code",))


def test_no_reader_of_mmengine_unpickles_objects(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"weight": torch.ones(1)}, "extra": Malicious()}, path)
    for read in (read_weights, CheckpointLoader.load_checkpoint):
        with pytest.raises(UserError, match="refused"):
            read(str(path))
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(UserError):
        CheckpointLoader.load_checkpoint(str(tmp_path / "plain.pkl"))


def test_mmengine_reads_safetensors(tmp_path):
    save_file({"weight": torch.arange(3.0)}, tmp_path / "a.safetensors")
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "a.safetensors"), map_location="cpu")
    assert torch.equal(checkpoint["state_dict"]["weight"], torch.arange(3.0))


def test_bad_files_are_named(tmp_path):
    good = tmp_path / "resnet50.safetensors"
    save_file({"weight": torch.ones(1000)}, good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"cut\.safetensors: not a readable"):
        read_weights(cut)
    with pytest.raises(UserError, match=r"resnet5\.safetensors: no such file; did you mean .*resnet50\.safetensors"):
        read_weights(tmp_path / "resnet5.safetensors")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_weights(tmp_path / "none.pth")


def test_unknown_names_and_schemes_are_refused():
    with pytest.raises(UserError, match="did you mean resnet50"):
        read_weights("torchvision://resnet5O")
    with pytest.raises(UserError, match="weights come from"):
        read_weights("s3://bucket/file.pth")


def test_a_download_happens_once_and_its_failure_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    calls = []

    def download(url, target, progress):
        calls.append(url)
        torch.save({"weight": torch.ones(2)}, target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert read_weights("https://example.org/models/a.pth")["weight"].sum() == 2
    assert calls == ["https://example.org/models/a.pth"]

    def fail(url, target, progress):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError, match=r"b\.pth: cannot be downloaded \(no route\)"):
        read_weights("https://example.org/models/b.pth")


# COCO classes that ImageNet has too, with ImageNet's indices of them
IMAGENET = {
    "airplane": [404, 895, 908],
    "banana": [954],
    "bear": [294, 295, 296, 297],
    "keyboard": [508],
    "laptop": [620, 681],
    "pizza": [963],
    "teddy bear": [850],
    "toilet": [861],
    "umbrella": [879],
    "zebra": [340],
}


@pytest.fixture(scope="module")
def photographed_objects(shared):
    """Square crops of large objects, RGB in 0..255 [N, 3, 224, 224], and their classes."""
    folder = shared / "data" / "coco128"
    dataset = json.loads(next(folder.rglob("instances_train2017.json")).read_text())
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    files = {image["id"]: image["file_name"] for image in dataset["images"]}
    crops, classes = [], []
    for annotation in dataset["annotations"]:
        name, (x, y, w, h) = names[annotation["category_id"]], annotation["bbox"]
        if name in IMAGENET and w * h > 120**2 and max(w, h) < 3 * min(w, h):
            half = max(w, h) * 1.15 / 2
            box = (x + w / 2 - half, y + h / 2 - half, x + w / 2 + half, y + h / 2 + half)
            with Image.open(folder / "images" / files[annotation["image_id"]]) as image:
                crop = image.convert("RGB").crop([round(v) for v in box]).resize((224, 224), Image.Resampling.BICUBIC)
            crops.append(np.asarray(crop))
            classes.append(name)
    assert len(crops) >= 20
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float(), classes


def test_the_imagenet_resnet_recognises_photos_only_with_its_strides_and_channel_order(shared, photographed_objects):
    path = shared / "weights" / "resnet50_imagenet_caffe_bgr_fp16.safetensors"
    weights = {name: value.float() for name, value in read_weights(path).items() if name.startswith("fc.")}
    rgb, classes = photographed_objects

    def certainty(style, images):
        """Mean probability of the best class, and of the right one."""
        model = resnet50(style, checkpoint=str(path))
        with torch.no_grad():
            features = model(images)[-1].mean((2, 3))
        probabilities = (features @ weights["fc.weight"].T + weights["fc.bias"]).softmax(1)
        right = [row[IMAGENET[name]].sum() for row, name in zip(probabilities, classes, strict=True)]
        return probabilities.max(1).values.mean(), torch.stack(right).mean()

    best, right = certainty("caffe", rgb.flip(1) - CAFFE_MEAN)
    assert best > 0.58
    assert right > 0.49  # 0.474 if the variance that half precision has as infinite silences its channel
    for style, images in (("pytorch", rgb.flip(1) - CAFFE_MEAN), ("caffe", rgb - CAFFE_MEAN.flip(0))):
        other_best, other_right = certainty(style, images)
        assert best > other_best + 0.05
        assert right > other_right + 0.03


def test_variances_beyond_half_precision_keep_their_channel_alive():
    weights = {name: value.half() for name, value in small().state_dict().items()}
    weights["1.running_var"][2] = torch.inf
    target = small()
    report = load_weights(target, weights, "x.safetensors")
    assert target[1].running_var[2] == 65504
    assert report.overflowed == ("1.running_var",) and "beyond half precision" in str(report)


@pytest.mark.parametrize(("name", "value"), [("0.weight", torch.inf), ("1.running_var", torch.nan)])
def test_other_values_that_are_not_finite_are_refused(name, value):
    weights = {key: tensor.half() for key, tensor in small().state_dict().items()}
    weights[name].view(-1)[0] = value
    with pytest.raises(UserError, match=rf"{name} holds values that are not finite"):
        load_weights(small(), weights, "x.safetensors")
