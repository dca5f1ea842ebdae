"""Names go through the tables both ways and no tensor is lost on the way, without a word or at all."""

import random
from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.engine.conversion.convert import Wanted, convert_weights, cut_prefixes
from ovd.engine.conversion.layouts import LAYOUTS, Layout, get_layout
from ovd.engine.conversion.renaming import WORDS, Rule
from ovd.engine.conversion.report import ConversionRefused
from ovd.engine.conversion.resnet import Architecture, recognise
from ovd.errors import UserError
from pipelines.checkpoint_conversion import LAYOUT_NAMES

COUNTS = {18: 120, 34: 216, 50: 318, 101: 624, 152: 930}
WRITABLE = [name for name, layout in LAYOUTS.items() if layout.writable]


def random_weights(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 99, shape) if name.endswith("num_batches_tracked") else
            torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def small_resnet(depth=18, counters=True):
    return random_weights(Architecture(depth, width=8, counters=counters).shapes)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape
        assert value.numpy().tobytes() == other[name].numpy().tobytes(), name


def filled(template, values):
    """A template with its fields filled in by hand: numbers with their offset, words as they are."""
    for field, value in values.items():
        for offset in range(4):
            written = f"{{{field}+{offset}}}" if offset else f"{{{field}}}"
            template = template.replace(written, value if field in WORDS else str(value + offset))
    return template


def fields(template):
    return [part.split("}")[0].split("+")[0] for part in template.split("{")[1:]]


@st.composite
def ruled_names(draw):
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    rule = draw(st.sampled_from(LAYOUTS[layout].rules))
    values = {field: draw(st.sampled_from(WORDS[field].split("|"))) if field in WORDS else draw(st.integers(0, 40))
              for field in fields(rule.ours)}
    return layout, filled(rule.theirs, values), filled(rule.ours, values)


@settings(max_examples=300, deadline=None)
@given(ruled_names())
def test_every_row_is_a_bijection_and_no_two_rows_claim_a_name(case):
    layout, theirs, ours = case
    rules = LAYOUTS[layout].rules
    assert {rule.to_ours(theirs) for rule in rules} - {None} == {ours}
    assert LAYOUTS[layout].to_ours(theirs) == ours
    assert LAYOUTS[layout].to_ours(LAYOUTS[layout].to_theirs(ours)) == ours
    if layout != "soco":  # the one layout with two names for a tensor
        assert {rule.to_theirs(ours) for rule in rules} - {None} == {theirs}


def test_rows_have_the_same_fields_on_both_sides():
    for layout in LAYOUTS.values():
        for rule in layout.rules:
            assert sorted(fields(rule.theirs)) == sorted(set(fields(rule.ours))), rule


def test_numbers_are_counted_from_where_each_side_counts():
    rule = Rule("res{l+1}.{b}.fc{i+2}", "layer{l}.{b}.fcs.{i}")
    assert rule.to_ours("res4.11.fc2") == "layer3.11.fcs.0"
    assert rule.to_theirs("layer3.11.fcs.10") == "res4.11.fc12"
    assert rule.to_ours("res4.11.fc1") is None and rule.to_ours("res4.011.fc3") is None


@pytest.mark.parametrize(("timm", "detectron2"), [
    ("conv1.weight", "stem.conv1.weight"), ("bn1.running_var", "stem.conv1.norm.running_var"),
    ("layer3.4.conv2.weight", "res4.4.conv2.weight"), ("layer3.4.bn2.bias", "res4.4.conv2.norm.bias"),
    ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
    ("layer4.0.downsample.1.bias", "res5.0.shortcut.norm.bias")])
def test_a_resnet_gets_detectron2s_names(timm, detectron2):
    _, report = convert_weights(small_resnet(50), "timm", "detectron2")
    assert report.matched[timm] == [detectron2]


@pytest.mark.parametrize("depth", sorted(COUNTS))
def test_expected_tensors_are_those_of_torchvisions_network(depth):
    with torch.device("meta"):
        network = getattr(torchvision.models, f"resnet{depth}")()
    theirs = {name: tuple(value.shape) for name, value in network.state_dict().items() if not name.startswith("fc.")}
    ours = Architecture(depth).shapes
    assert ours == theirs and len(ours) == COUNTS[depth]
    assert recognise(theirs, "x") == Architecture(depth)


def test_timms_names_are_torchvisions():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        names = timm.create_model("resnet50").state_dict().keys()
    assert {name for name in names if not name.startswith("fc.")} == Architecture(50).shapes.keys()


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_a_resnet_comes_back_from_all_layouts_to_the_bit(depth):
    torch.manual_seed(depth)
    weights = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    weights["bn1.weight"] = weights["bn1.weight"].half()
    weights["bn1.running_var"] = torch.full_like(weights["bn1.running_var"], torch.nan)
    there, name = {key: value for key, value in weights.items() if not key.startswith("fc.")}, "torchvision"
    backbone = there
    order = [layout for layout in WRITABLE if layout not in ("torchvision", "timm", "spark")]
    for layout in (*order, "spark", "timm", "torchvision"):
        there, report = convert_weights(there, name, layout)
        assert report.counts == {"matched": COUNTS[depth], "left_out": 0, "filled": 0, "missing": 0, "unexpected": 0,
                                 "shape_errors": 0}
        name = layout
    assert_same(there, backbone)
    assert convert_weights(weights, "torchvision", "mmdet3")[1].left_out == dict.fromkeys(
        ("fc.weight", "fc.bias"), "ImageNet classifier")


def test_frozen_normalisation_lacks_counters_and_is_whole():
    weights = small_resnet(50, counters=False)
    converted, report = convert_weights(weights, "torchvision", "detectron2")
    assert len(converted) == 265 and "265 of 265" in report.backbone and report.is_whole
    weights["bn1.num_batches_tracked"] = torch.tensor(1)
    with pytest.raises(ConversionRefused, match="52 missing"):
        convert_weights(weights, "torchvision", "detectron2")


# --- what is not whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["detectron2", "mmdet3"])
def test_what_is_missing_unexpected_or_misshapen_is_refused_and_named(target):
    weights = small_resnet(50)
    del weights["layer2.1.conv2.weight"]
    weights["layer3.0.bn1.bias"] = torch.zeros(7)
    weights["attention.weight"] = torch.zeros(3)
    weights["layer1.1.downsample.0.weight"] = torch.zeros(3)  # has the form of a name, but is none of a ResNet-50
    with pytest.raises(ConversionRefused, match="1 missing, 2 unexpected, 1 shape errors") as refused:
        convert_weights(weights, "timm", target)
    report = refused.value.report
    assert report.unexpected == ["attention.weight", "layer1.1.downsample.0.weight"]
    assert report.shape_errors == {"layer3.0.bn1.bias": "[7], in a ResNet-50 [32]"}
    assert report.missing == [{"detectron2": "backbone.bottom_up.res3.1.conv2.weight",
                               "mmdet3": "backbone.layer2.1.conv2.weight"}[target]]
    converted, report = convert_weights(weights, "timm", target, allow_partial=True)
    assert len(converted) == len(report.matched) == 318 - 2 and not report.is_whole


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["torchvision", "detectron2", "mmdet2", "oadp", "detpro"]))
def test_every_tensor_is_in_one_list_of_the_report(random: random.Random, layout):
    weights = convert_weights(small_resnet(18), "torchvision", layout)[0]
    for name in random.sample(sorted(weights), random.randrange(8)):
        del weights[name]
    for name in random.sample(sorted(weights), random.randrange(8)):
        weights[name] = torch.zeros(random.choice([(1,), (3, 2), ()]))
    for _ in range(random.randrange(5)):
        weights[".".join(random.choices(["fc", "backbone", "layer1", "0", "weight", "bias", "conv1", "x"], k=3))] = \
            torch.zeros(1)
    try:
        converted, report = convert_weights(weights, layout, "mmdet3", allow_partial=True)
    except UserError as error:  # a block that no ResNet has
        assert "blocks a stage" in str(error) or "a stem of three" in str(error)
        return
    lists = [list(report.matched), report.unexpected, list(report.left_out), list(report.shape_errors)]
    assert sorted(name for names in lists for name in names) == sorted(weights)
    assert converted.keys() == {name for names in report.matched.values() for name in names}
    for name, (target,) in report.matched.items():
        assert converted[target] is weights[name]
    for name in report.missing:
        assert name not in converted


def test_a_wrong_layout_is_hinted_at():
    weights = convert_weights(small_resnet(), "timm", "detectron2")[0]
    with pytest.raises(ConversionRefused, match="no tensor of it fits the layout mmdet3; the names look like those of "
                                                "detectron2"):
        convert_weights(weights, "mmdet3", "torchvision")
    with pytest.raises(UserError, match="no key layout named 'detectron'; did you mean detectron2"):
        get_layout("detectron")


@pytest.mark.parametrize(("name", "why"), [
    ("conv1.0.weight", "a stem of three convolutions"), ("backbone.stem.0.weight", "a stem of three convolutions"),
    ("layer2.0.downsample.2.weight", "averages before"), ("layer1.0.se.fc1.weight", "squeeze-and-excitation"),
    ("attnpool.c_proj.weight", "CLIP ResNet")])
def test_variants_of_the_resnet_are_refused_with_the_reason(name, why):
    weights = {**small_resnet(50), name: torch.zeros(1)}
    for allow_partial in (False, True):
        with pytest.raises(UserError, match=why):
            convert_weights(weights, "timm", "detectron2", allow_partial=allow_partial)


def test_timms_d_variant_is_refused():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        weights = timm.create_model("resnet50d").state_dict()
    with pytest.raises(UserError, match="a stem of three convolutions"):
        convert_weights(weights, "timm", "mmdet3")


def test_other_numbers_of_blocks_are_refused():
    weights = {name: value for name, value in small_resnet(50).items() if not name.startswith("layer3.5.")}
    with pytest.raises(UserError, match="3, 4, 5, 3 bottleneck blocks a stage, which is none of"):
        convert_weights(weights, "timm", "mmdet3")


def test_mmdet_1_is_refused():
    with pytest.raises(UserError, match="upgrade it with mmdet's own"):
        convert_weights({"bbox_head.fc_cls.weight": torch.zeros(81, 4)}, "mmdet2", "ovd")


# --- where the weights lie ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "backbone.body.", "module.backbone.", "module.encoder_q."])
def test_prefixes_are_cut(prefix):
    weights = small_resnet()
    wrapped = {prefix + name: value for name, value in weights.items()}
    converted, report = convert_weights(wrapped, "timm", "torchvision")
    assert_same(converted, weights)
    assert report.is_whole


def test_what_lies_beside_a_prefix_is_reported():
    body = {f"backbone.body.{name}": value for name, value in small_resnet().items()}
    with pytest.raises(ConversionRefused) as refused:
        convert_weights({**body, "rpn.head.conv.0.0.weight": torch.zeros(1)}, "torchvision", "detectron2")
    assert refused.value.report.unexpected == ["rpn.head.conv.0.0.weight"]
    query = {f"module.encoder_q.{name}": value for name, value in small_resnet().items()}
    momentum = {"module.encoder_k.conv1.weight": torch.zeros(1), "module.queue": torch.zeros(1)}
    report = convert_weights({**query, **momentum, "module.encoder_q.fc.0.bias": torch.zeros(1)}, "timm", "mmdet3")[1]
    assert report.is_whole and report.left_out.keys() == {*momentum, "module.encoder_q.fc.0.bias"}


def test_prefixes_are_cut_in_their_order():
    names = ["a.b.x", "a.y", "z"]
    layout = Layout("", (Rule("x", "x"),), prefixes=("a.", "b."))
    assert cut_prefixes(names, layout) == ({"a.b.x": "x"}, ["z", "a.y"])
    assert cut_prefixes([*names, "x"], layout) == ({name: name for name in (*names, "x")}, [])  # x is the model's
    assert cut_prefixes(names, replace(layout, prefixes=("b.", "q."))) == ({name: name for name in names}, [])


def test_sparks_decoder_stays_behind():
    spark = {f"sparse_encoder.sp_cnn.{name}": value for name, value in small_resnet(50).items()}
    decoder = dict.fromkeys(("dense_decoder.dec.0.up_sample.weight", "densify_norms.0.weight", "densify_projs.1.bias",
                             "mask_tokens.2", "imn_m", "imn_s", "norm_black"), torch.zeros(1))
    converted, report = convert_weights({**spark, **decoder}, "spark", "detectron2")
    assert len(converted) == 318 and report.is_whole and report.left_out.keys() == decoder.keys()


def test_msra_weights_normalise_by_nothing():
    shapes = Architecture(50, width=8, counters=False).shapes
    weights = random_weights({name: shape for name, shape in shapes.items() if "running" not in name})
    spelled = {}
    for name, value in weights.items():
        layer, block, part, *_ = (*name.split("."), "", "")
        kind = name.rpartition(".")[2]
        if not name.startswith("layer"):
            spelled["conv1_w" if layer == "conv1" else f"res_conv1_bn_{'s' if kind == 'weight' else 'b'}"] = value
            continue
        branch = "1" if part == "downsample" else "2" + "abc"[int(part[-1]) - 1]
        norm = part.startswith("bn") or name.split(".")[3:4] == ["1"]
        suffix = ("_bn_s" if kind == "weight" else "_bn_b") if norm else "_w"
        spelled[f"res{int(layer[-1]) + 1}_{block}_branch{branch}{suffix}"] = value
    converted, report = convert_weights({**spelled, "fc1000_w": torch.zeros(1), "conv1_b": torch.zeros(1)}, "msra",
                                        "torchvision")
    assert report.is_whole and len(report.filled) == 2 * 53 and len(report.left_out) == 2
    assert {name: converted[name] for name in weights}.keys() == weights.keys() and converted.keys() == shapes.keys()
    norm = torch.nn.BatchNorm2d(8).eval()
    norm.load_state_dict({name.removeprefix("bn1."): converted[name] for name in converted if name.startswith("bn1.")},
                         strict=False)
    x = torch.randn(2, 8, 3, 3)
    folded = x * weights["bn1.weight"][:, None, None] + weights["bn1.bias"][:, None, None]
    torch.testing.assert_close(norm(x), folded)
    with pytest.raises(UserError, match="only read"):
        convert_weights(converted, "torchvision", "msra")


# --- a model that is to load the result --------------------------------------------------------------------------


def test_the_models_counters_begin_at_zero_where_the_source_has_none():
    shapes = {f"backbone.{name}": shape for name, shape in Architecture(18, 8).shapes.items()}
    wanted = {name: Wanted(shape, name.endswith("tracked")) for name, shape in shapes.items()}
    wanted["roi_head.bbox_head.fc_reg.bias"] = Wanted((4,))
    converted, report = convert_weights(small_resnet(18, counters=False), "timm", "mmdet3", wanted=wanted,
                                        allow_partial=True)
    assert report.missing == ["roi_head.bbox_head.fc_reg.bias"] and len(report.filled) == 20
    assert all(converted[name] == 0 and converted[name].dtype == torch.long for name in report.filled)
    assert convert_weights(small_resnet(18), "timm", "spark", wanted=wanted)[1].is_whole  # a backbone, of a detector
    wanted["backbone.conv1.weight"] = Wanted((8, 3, 3, 3))
    report = convert_weights(small_resnet(18), "timm", "spark", wanted=wanted, allow_partial=True)[1]
    assert report.shape_errors == {"conv1.weight": "[8, 3, 7, 7], the model's [8, 3, 3, 3]"} and not report.missing


def test_the_command_lists_the_layouts_that_there_are():
    assert set(LAYOUT_NAMES) == set(LAYOUTS)


def test_a_mask_head_that_the_stages_of_a_cascade_share_is_not_taken_for_one_of_a_stage():
    cascade = {f"roi_heads.box_head.{stage}.fc1.bias": torch.rand(4) for stage in range(3)}
    masks = {"roi_heads.mask_head.mask_fcn1.bias": torch.rand(4)}
    with pytest.raises(ConversionRefused) as refused:
        convert_weights({**cascade, **masks}, "detectron2", "mmdet3")
    assert refused.value.report.unexpected == list(masks)
    assert convert_weights({**cascade, **masks}, "detectron2", "detectron2")[0].keys() == {*cascade, *masks}
    single, _ = convert_weights({"roi_heads.box_head.fc1.bias": torch.rand(4), **masks}, "detectron2", "mmdet3")
    assert "roi_head.mask_head.convs.0.conv.bias" in single
