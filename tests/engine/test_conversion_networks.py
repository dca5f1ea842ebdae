"""Converted weights compute what they computed before: against torchvision, and against forward passes written out
from the names of detectron2, DetPro and OADP."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmdet.models import FPN, FCNMaskHead, ResNet, RPNHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from torch import nn

from ovd.engine.conversion.convert import convert_weights
from ovd.engine.conversion.report import ConversionRefused
from ovd.models import CosineClassifier, ViLDBBoxHead
from ovd.models.vild_head import ViLDImageHead
from ovd.stores.class_heads import ClassHead

CODER = {"type": DeltaXYWHBBoxCoder, "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that let every tensor matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 1 / math.sqrt(max(value[0].numel(), 4)), generator=generator)
    return module.eval()


def below(weights, prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 50])
def test_mmdets_resnet_computes_torchvisions_features(depth):
    theirs = getattr(torchvision.models, f"resnet{depth}")()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    theirs.eval()
    pickled = convert_weights(theirs.state_dict(), "torchvision", "detectron2")[0]
    ours = ResNet(depth=depth, style="pytorch")
    ours.eval()
    ours.load_state_dict(below(convert_weights(pickled, "detectron2", "mmdet3")[0], "backbone."))
    images = torch.randn(1, 3, 64, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    for layer, features in zip((theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), ours(images)):
        x = layer(x)
        torch.testing.assert_close(features, x, rtol=1e-5, atol=1e-5)


# --- detectron2 --------------------------------------------------------------------------------------------------

def d2_conv(weights, name, x, norm, relu=False, padding=1):
    """detectron2's Conv2d: a convolution, then its norm, then its activation."""
    x = F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=padding)
    if norm:
        own = below(weights, f"{name}.norm.")
        assert own, name
        x = F.batch_norm(x, own["running_mean"], own["running_var"], own["weight"], own["bias"]) if norm == "BN" else \
            F.group_norm(x, 4, own["weight"], own["bias"])
    return x.relu() if relu else x


def linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm_cfg(norm):
    return {"type": norm, **({"num_groups": 4} if norm == "GN" else {})} if norm else None


def detectron2_from(parts):
    """detectron2's names for mmdet's modules, by converting them to it; a backbone is not needed."""
    ours = {f"{prefix}.{name}": value for prefix, module in parts.items()
            for name, value in module.state_dict().items()}
    converted, report = convert_weights(ours, "mmdet3", "detectron2")
    assert report.is_whole and len(converted) == len(ours)
    back = convert_weights(converted, "detectron2", "mmdet3")[0]
    assert back.keys() == ours.keys() and all(back[name] is value for name, value in ours.items())
    return converted


@torch.no_grad()
@pytest.mark.parametrize("norm", ["BN", "GN", None])
def test_a_pyramid_computes_what_detectron2s_does(norm):
    neck = randomise(FPN(in_channels=[4, 6, 8, 10], out_channels=8, num_outs=5, norm_cfg=norm_cfg(norm)))
    weights = detectron2_from({"neck": neck})
    levels = [torch.randn(2, channels, 32 >> i, 48 >> i) for i, channels in enumerate((4, 6, 8, 10))]
    outputs, above = {}, None
    for stage in (5, 4, 3, 2):
        above_upsampled = 0 if above is None else F.interpolate(above, scale_factor=2, mode="nearest")
        above = d2_conv(weights, f"backbone.fpn_lateral{stage}", levels[stage - 2], norm, padding=0) + above_upsampled
        outputs[stage] = d2_conv(weights, f"backbone.fpn_output{stage}", above, norm)
    outputs[6] = F.max_pool2d(outputs[5], kernel_size=1, stride=2)
    for stage, features in zip((2, 3, 4, 5, 6), neck(levels)):
        torch.testing.assert_close(features, outputs[stage])


def d2_anchors(size, ratios=(0.5, 1.0, 2.0)):
    """Of one place: one size a level, ratio is height / width, the area stays."""
    anchors = []
    for ratio in ratios:
        width = math.sqrt(size ** 2 / ratio)
        height = ratio * width
        anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(anchors)


def d2_decode(deltas, boxes, weights=(10.0, 10.0, 5.0, 5.0)):
    """Box2BoxTransform.apply_deltas."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    dx, dy, dw, dh = ((deltas / torch.tensor(weights)).unbind(1))
    x, y = boxes[:, 0] + width / 2 + dx * width, boxes[:, 1] + height / 2 + dy * height
    w, h = dw.clamp(max=math.log(1000 / 16)).exp() * width, dh.clamp(max=math.log(1000 / 16)).exp() * height
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


@torch.no_grad()
def test_a_proposal_network_computes_what_detectron2s_does():
    head = randomise(RPNHead(
        in_channels=8, feat_channels=8,
        anchor_generator={"type": AnchorGenerator, "scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": [4, 8]},
        bbox_coder={**CODER, "target_stds": [1.0] * 4}))
    weights = below(detectron2_from({"rpn_head": head}), "proposal_generator.rpn_head.")
    level = torch.randn(2, 8, 5, 6)
    hidden = F.conv2d(level, weights["conv.weight"], weights["conv.bias"], padding=1).relu()
    logits = F.conv2d(hidden, weights["objectness_logits.weight"], weights["objectness_logits.bias"])
    deltas = F.conv2d(hidden, weights["anchor_deltas.weight"], weights["anchor_deltas.bias"])
    ours = head.forward_single(level)
    torch.testing.assert_close(ours, (logits, deltas))
    # what a channel means: anchor by anchor, four numbers each
    for anchors, size in zip(head.prior_generator.base_anchors, (32, 64)):
        torch.testing.assert_close(anchors, d2_anchors(size))
    # mmdet also limits how much smaller a box may get, to 1 / 62.5, as both do how much larger
    deltas_N4 = (3 * torch.randn(50, 4)).clamp(min=-4)
    boxes_N4 = torch.rand(50, 2).repeat(1, 2) * 50 + torch.cat([torch.zeros(50, 2), torch.rand(50, 2) * 40 + 1], 1)
    torch.testing.assert_close(head.bbox_coder.decode(boxes_N4, deltas_N4), d2_decode(deltas_N4, boxes_N4, (1.0,) * 4))
    coder = DeltaXYWHBBoxCoder(target_means=(0.0,) * 4, target_stds=(0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(coder.decode(boxes_N4, deltas_N4), d2_decode(deltas_N4, boxes_N4))


@torch.no_grad()
@pytest.mark.parametrize("norm", ["BN", "GN", None])
@pytest.mark.parametrize("convs", [0, 2])
def test_box_and_mask_heads_compute_what_detectron2s_do(norm, convs):
    classes = 3
    box = randomise(ConvFCBBoxHead(
        num_shared_convs=convs, num_shared_fcs=2, in_channels=8, conv_out_channels=8, fc_out_channels=12,
        roi_feat_size=3, num_classes=classes, norm_cfg=norm_cfg(norm), bbox_coder=CODER))
    mask = randomise(FCNMaskHead(num_convs=2, in_channels=8, conv_out_channels=8, num_classes=classes,
                                 norm_cfg=norm_cfg(norm)))
    weights = detectron2_from({"roi_head.bbox_head": box, "roi_head.mask_head": mask})
    rois = torch.randn(5, 8, 3, 3)
    x = rois
    for i in range(convs):
        x = d2_conv(weights, f"roi_heads.box_head.conv{i + 1}", x, norm, relu=True)
    x = x.flatten(1)
    for fc in ("fc1", "fc2"):
        x = linear(weights, f"roi_heads.box_head.{fc}", x).relu()
    predicted = [linear(weights, f"roi_heads.box_predictor.{name}", x) for name in ("cls_score", "bbox_pred")]
    assert predicted[0].shape == (5, classes + 1) and predicted[1].shape == (5, 4 * classes)
    torch.testing.assert_close(box(rois), tuple(predicted))
    # classes in order with the background last, and four deltas of one class after the other, in both
    assert box.num_classes == classes and box.reg_class_agnostic is False
    y = rois
    for i in range(2):
        y = d2_conv(weights, f"roi_heads.mask_head.mask_fcn{i + 1}", y, norm, relu=True)
    head = below(weights, "roi_heads.mask_head.")
    y = F.conv_transpose2d(y, head["deconv.weight"], head["deconv.bias"], stride=2).relu()
    torch.testing.assert_close(mask(rois), F.conv2d(y, head["predictor.weight"], head["predictor.bias"]))


def test_heads_of_classes_are_of_no_use_for_other_classes():
    weights = {"roi_head.bbox_head.fc_cls.weight": torch.zeros(81, 8),
               "roi_head.bbox_head.fc_reg.weight": torch.zeros(320, 8),
               "roi_head.mask_head.conv_logits.weight": torch.zeros(80, 8, 1, 1),
               "roi_head.bbox_head.shared_fcs.0.weight": torch.zeros(8, 8)}
    with pytest.raises(ConversionRefused, match="2 shape errors") as refused:
        convert_weights(weights, "mmdet3", "ovd")
    report = refused.value.report
    assert "of 80 classes: boxes are class-agnostic here" in report.shape_errors["roi_head.bbox_head.fc_reg.weight"]
    assert "of 80 classes: masks" in report.shape_errors["roi_head.mask_head.conv_logits.weight"]
    assert list(report.left_out) == ["roi_head.bbox_head.fc_cls.weight"]
    converted, _ = convert_weights(weights, "mmdet3", "ovd", allow_partial=True)
    assert list(converted) == ["roi_head.bbox_head.shared_fcs.0.weight"]
    agnostic = {"roi_head.bbox_head.fc_reg.weight": torch.zeros(4, 8),
                "roi_head.mask_head.conv_logits.weight": torch.zeros(1, 8, 1, 1)}
    assert convert_weights(agnostic, "mmdet3", "ovd")[1].is_whole


# --- detectors of the field --------------------------------------------------------------------------------------

WIDTH, CLASSES = 6, 4


def vild_heads():
    """Box and image head of an ensemble, random, and class embeddings."""
    head = ClassHead(names=[f"class {i}" for i in range(CLASSES)],
                     weights=torch.randn(CLASSES, 1, WIDTH, generator=torch.Generator().manual_seed(3)))
    shared = {"num_shared_convs": 2, "in_channels": 4, "conv_out_channels": 4, "fc_out_channels": 12,
              "roi_feat_size": 3, "norm_cfg": {"type": "BN"}, "bbox_coder": CODER}
    heads = [kind(classifier={"type": CosineClassifier, "class_head": head, "background": background}, **shared)
             for kind, background in ((ViLDBBoxHead, True), (ViLDImageHead, False))]
    return (*(randomise(part, seed) for seed, part in enumerate(heads)), F.normalize(head.weights[:, 0], dim=1))


def plain_trunk(weights, suffix, rois):
    """Shared layers as in DetPro's or OADP's box head: names end in ``suffix`` before the number."""
    x = rois
    for i in range(2):
        conv = below(weights, f"shared_convs{suffix}.{i}.")
        x = F.conv2d(x, conv["conv.weight"], padding=1)
        x = F.batch_norm(x, conv["bn.running_mean"], conv["bn.running_var"], conv["bn.weight"], conv["bn.bias"]).relu()
    fc = below(weights, f"shared_fcs{suffix}.0.")
    return F.linear(x.flatten(1), fc["weight"], fc["bias"]).relu()


def load(module, weights, prefix):
    module.load_state_dict(below(weights, prefix), strict=True)
    return module.eval()


@torch.no_grad()
def test_detpros_ensemble_computes_what_detpros_names_say():
    text, image, classes_CD = vild_heads()
    ours = {**{f"roi_head.bbox_head.{name}": value for name, value in text.state_dict().items()},
            **{f"roi_head.image_head.{name}": value for name, value in image.state_dict().items()}}
    weights, report = convert_weights(ours, "ovd", "detpro")
    assert report.is_whole
    weights["roi_head.bg_embedding.bias"] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4))
    weights |= {"roi_head.clip_model.logit_scale": torch.zeros(()),
                "roi_head.bbox_head.fc_cls.weight": torch.zeros(5, 12)}
    converted, report = convert_weights(weights, "detpro", "ovd")
    assert report.is_whole and len(report.left_out) == 2
    text, image = load(text, converted, "roi_head.bbox_head."), load(image, converted, "roi_head.image_head.")
    rois = torch.randn(7, 4, 3, 3)
    box, projection = below(weights, "roi_head.bbox_head."), below(weights, "roi_head.")
    trunk = plain_trunk(box, "", rois)
    # a linear layer of one input that is 1, then a unit vector
    background = F.linear(torch.ones(1), projection["bg_embedding.weight"], projection["bg_embedding.bias"])
    rows = torch.cat([classes_CD, F.normalize(background[None])])
    region = F.normalize(linear(projection, "projection", trunk))
    logits, deltas = text(rois)
    torch.testing.assert_close(logits, region @ rows.T / 0.007)
    torch.testing.assert_close(deltas, linear(box, "fc_reg", trunk))
    region = F.normalize(linear(projection, "projection_for_image", plain_trunk(box, "_for_image", rois)))
    torch.testing.assert_close(image(rois), region @ classes_CD.T / 0.007)


@torch.no_grad()
def test_oadps_ensemble_computes_what_oadps_names_say():
    text, image, classes_CD = vild_heads()
    ours = {**{f"roi_head.bbox_head.{name}": value for name, value in text.state_dict().items()},
            **{f"roi_head.image_head.{name}": value for name, value in image.state_dict().items()},
            **{f"roi_head.block_head.layers.{i}.bias": torch.randn(3) for i in (0, 2, 4)},
            "roi_head.global_head.projection.bias": torch.randn(3)}
    weights, report = convert_weights(ours, "ovd", "oadp")
    assert report.is_whole
    assert weights["roi_head.bbox_head.fc_cls._bg_embedding"].shape == (1, WIDTH)
    assert torch.equal(weights["roi_head._block_head.fc_cls._linear.bias"], ours["roi_head.block_head.layers.4.bias"])
    assert torch.equal(weights["_global_head._classifier._linear.bias"], ours["roi_head.global_head.projection.bias"])
    unused = {"roi_head._object_head.fc_cls._bg_embedding": torch.zeros(1, WIDTH),
              "roi_head._block_head.fc_cls._bg_embedding": torch.zeros(1, WIDTH)}
    converted, report = convert_weights({**weights, **unused}, "oadp", "ovd")
    assert report.is_whole and report.left_out.keys() == unused.keys()
    assert converted.keys() == ours.keys() and all(torch.equal(converted[name], ours[name]) for name in ours)
    rois = torch.randn(7, 4, 3, 3)
    for head, prefix, rows in ((text, "roi_head.bbox_head.", 5), (image, "roi_head._object_head.", 4)):
        names = below(weights, prefix)
        embeddings = classes_CD if rows == 4 else torch.cat([classes_CD, F.normalize(names["fc_cls._bg_embedding"])])
        region = F.normalize(linear(names, "fc_cls._linear", plain_trunk(names, "", rois)))
        logits = load(head, converted, {5: "roi_head.bbox_head.", 4: "roi_head.image_head."}[rows])(rois)
        torch.testing.assert_close(logits[0] if rows == 5 else logits, region @ embeddings.T / 0.007)


def test_detpros_cascade_shares_a_background():
    stages = range(3)
    ours = {f"roi_head.bbox_head.{s}.projection.weight": torch.randn(WIDTH, 12) for s in stages}
    ours |= {f"roi_head.image_head.{s}.{name}": torch.randn(5) for s in stages
             for name in ("projection.bias", "shared_convs.3.bn.bias", "shared_fcs.0.bias")}
    row = torch.randn(WIDTH)
    ours |= {f"roi_head.bbox_head.{s}.classifier.background": row.clone() for s in stages}
    weights, report = convert_weights(ours, "ovd", "detpro")
    assert report.is_whole and {"roi_head.projection.2.weight", "roi_head.projection_for_image.0.bias",
                                "roi_head.bbox_head.1.shared_convs_for_image.3.bn.bias",
                                "roi_head.bbox_head.1.shared_fcs_for_image.0.bias"} < weights.keys()
    assert [name for name in weights if "bg" in name] == ["roi_head.bg_embedding.weight", "roi_head.bg_embedding.bias"]
    back, report = convert_weights(weights, "detpro", "ovd")
    assert report.is_whole and back.keys() == ours.keys() and all(torch.equal(back[name], ours[name]) for name in ours)
    ours["roi_head.bbox_head.1.classifier.background"] += 1
    with pytest.raises(ConversionRefused) as refused:
        convert_weights(ours, "ovd", "detpro")
    assert refused.value.report.unexpected == [f"roi_head.bbox_head.{s}.classifier.background" for s in stages]


def test_socos_training_checkpoint_and_its_export_are_one():
    backbone = {f"encoder.{name}": value for name, value in convert_weights(
        torchvision.models.resnet18().state_dict(), "torchvision", "spark")[0].items()}
    head = {f"head.conv{i}.weight": torch.randn(4, 4, 3, 3) for i in range(1, 5)}
    head |= {f"head.bn{i}.{stat}": torch.rand(4) for i in range(1, 5) for stat in ("weight", "bias", "running_var")}
    head |= {"head.fc1.weight": torch.randn(8, 36), "neck.lateral_convs.0.bn.bias": torch.randn(4),
             "neck.fpn_convs.3.conv.weight": torch.randn(4, 4, 3, 3)}
    copies = {"encoder_k.conv1.weight": torch.zeros(1), "head_k.fc1.bias": torch.zeros(1),
              "projector.linear1.weight": torch.zeros(1), "predictor.bn1.bias": torch.zeros(1)}
    raw = {f"module.{name}": value for name, value in {**backbone, **head, **copies}.items()}
    exported, report = convert_weights(raw, "soco", "soco")
    assert report.is_whole and report.left_out.keys() == {f"module.{name}" for name in copies}
    assert {"roi_head.bbox_head.shared_convs.3.bn.running_var", "roi_head.bbox_head.shared_fcs.0.weight",
            "neck.lateral_convs.0.bn.bias", "backbone.layer4.1.conv2.weight"} < exported.keys()
    for target in ("ovd", "mmdet3"):
        one, other = (convert_weights(weights, "soco", target)[0] for weights in (raw, exported))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_proposal_network_alone_is_named_as_its_framework_does():
    body = {"neck.fpn_convs.0.conv.weight": torch.randn(2, 2, 3, 3)}
    two = {**body, "rpn_head.rpn_conv.weight": torch.randn(2, 2, 3, 3), "rpn_head.rpn_cls.bias": torch.randn(3)}
    three = convert_weights(two, "mmdet2", "ovd-rpn")[0]
    assert three.keys() == {*body, "bbox_head.rpn_conv.weight", "bbox_head.rpn_cls.bias"}
    back = convert_weights(three, "mmdet3-rpn", "mmdet2")[0]
    assert back.keys() == two.keys() and all(back[name] is value for name, value in two.items())
    whole = {**two, "roi_head.bbox_head.shared_fcs.0.bias": torch.zeros(2)}
    converted, report = convert_weights(whole, "mmdet2", "ovd-rpn")  # the proposal network of a detector
    assert converted.keys() == three.keys() and list(report.left_out.values()) == [
        "a proposal network has no second stage"]
    with pytest.raises(ConversionRefused, match="look like those of mmdet3-rpn"):
        convert_weights(three, "mmdet3", "ovd")
