"""Rows of a detector's head follow the names of its classes: copied to the bit, drawn, combined, removed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.engine.head_surgery import RandomRows, RowsOfCheckpoint, find_class_layers, operate
from ovd.errors import UserError

NAMES = ("zebra", "traffic light", "cup", "owl", "kite", "fig")


def softmax_head(names, *, seed=0, class_wise=True, num_base=None) -> dict:
    """A two-stage detector's checkpoint: rows for the classes and the background, perhaps a regressor for each."""
    generator = torch.Generator().manual_seed(seed)
    count = len(names) if num_base is None else num_base
    shapes = {"neck.conv.weight": (3, 3), "roi_head.bbox_head.fc_cls.weight": (count + 1, 6),
              "roi_head.bbox_head.fc_cls.bias": (count + 1,), "rpn_head.rpn_cls.weight": (3, 4, 1, 1),
              "roi_head.bbox_head.fc_reg.weight": (4 * count if class_wise else 4, 6),
              "roi_head.bbox_head.fc_reg.bias": (4 * count if class_wise else 4,),
              "roi_head.mask_head.conv_logits.weight": (count if class_wise else 1, 6, 1, 1)}
    meta = {"classes": list(names), **({} if num_base is None else {"num_base": num_base})}
    return {"state_dict": {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}, "meta": meta}


def sigmoid_head(names, *, seed=0, layer="cls_logits") -> dict:
    """A one-stage detector's checkpoint: a 1x1 convolution with a row for each class."""
    generator = torch.Generator().manual_seed(seed)
    return {"state_dict": {f"bbox_head.{layer}.weight": torch.randn(len(names), 6, 1, 1, generator=generator),
                           f"bbox_head.{layer}.bias": torch.randn(len(names), generator=generator),
                           "bbox_head.conv_reg.weight": torch.randn(4, 6, 3, 3, generator=generator)},
            "meta": {"dataset_meta": {"classes": tuple(names)}}}


def rows_by_name(checkpoint: dict, key: str, names, each: int = 1) -> dict[str, torch.Tensor]:
    """The plain reading of a layer: class i has rows i * each to (i + 1) * each."""
    return {name: checkpoint["state_dict"][key][i * each:(i + 1) * each] for i, name in enumerate(names)}


@settings(max_examples=25, deadline=None)
@given(old=st.permutations(NAMES), new=st.permutations(NAMES), count=st.integers(2, 5), kept=st.integers(1, 6),
       class_wise=st.booleans())
def test_rows_of_known_classes_are_copied_to_the_bit_and_the_background_stays(old, new, count, kept, class_wise):
    old, new = old[:count], new[:kept]
    before = softmax_head(old, class_wise=class_wise)
    operation = operate(find_class_layers(before), new, RandomRows())
    after = {"state_dict": operation.weights}
    bbox = "roi_head.bbox_head."
    layers = {f"{bbox}fc_cls.weight": 1, f"{bbox}fc_cls.bias": 1}
    if class_wise:
        layers |= {f"{bbox}fc_reg.weight": 4, f"{bbox}fc_reg.bias": 4, "roi_head.mask_head.conv_logits.weight": 1}
    for key, each in layers.items():
        then, now = rows_by_name(before, key, old, each), rows_by_name(after, key, new, each)
        for name in set(old) & set(new):
            assert torch.equal(then[name], now[name]), (key, name)
        extra = int("fc_cls" in key)
        assert len(operation.weights[key]) == len(new) * each + extra
        if extra:
            assert torch.equal(before["state_dict"][key][-1], operation.weights[key][-1])
    for key in before["state_dict"].keys() - layers.keys():
        assert operation.weights[key] is before["state_dict"][key]
    assert (set(operation.copied), set(operation.made)) == (set(old) & set(new), set(new) - set(old))
    assert set(operation.removed) == set(old) - set(new)


@pytest.mark.parametrize("layer", ["cls_logits", "conv_cls"])
def test_sigmoid_heads_have_no_background_and_new_classes_begin_with_the_prior(layer):
    before = sigmoid_head(NAMES[:3], layer=layer)
    weights = operate(find_class_layers(before), (*NAMES[:3], "owl"), RandomRows()).weights
    assert weights[f"bbox_head.{layer}.weight"].shape == (4, 6, 1, 1)
    assert torch.equal(weights[f"bbox_head.{layer}.weight"][:3], before["state_dict"][f"bbox_head.{layer}.weight"])
    assert torch.sigmoid(weights[f"bbox_head.{layer}.bias"][3]).item() == pytest.approx(0.01)


def test_random_rows_are_small_normal_and_depend_on_seed_layer_and_class_alone():
    head = find_class_layers(softmax_head(NAMES[:2]))
    key = "roi_head.bbox_head.fc_cls.weight"
    one = operate(head, (*NAMES[:2], "owl", "kite"), RandomRows(3)).weights[key]
    other = operate(head, ("kite", *NAMES[:2]), RandomRows(3)).weights[key]
    assert torch.equal(one[3], other[0]) and not torch.equal(one[2], one[3])
    assert not torch.equal(one[3], operate(head, ("kite",), RandomRows(4)).weights[key][0])
    names = tuple(f"class {i}" for i in range(400))
    drawn = operate(head, names, RandomRows()).weights
    assert drawn[key][:-1].std().item() == pytest.approx(0.01, rel=0.1)
    assert abs(drawn[key][:-1].mean().item()) < 0.01 / math.sqrt(400)
    assert not drawn["roi_head.bbox_head.fc_cls.bias"][:-1].any()


def test_combine_takes_new_classes_by_name_from_the_other_checkpoint():
    base, novel = softmax_head(NAMES[:3]), softmax_head(("kite", "owl"), seed=1)
    operation = operate(find_class_layers(base), (*NAMES[:3], "owl", "kite"),
                        RowsOfCheckpoint(find_class_layers(novel), "novel.pth"))
    for key, each in (("roi_head.bbox_head.fc_cls.bias", 1), ("roi_head.bbox_head.fc_reg.weight", 4)):
        found = rows_by_name({"state_dict": operation.weights}, key, operation.names, each)
        theirs = rows_by_name(novel, key, ("kite", "owl"), each)
        assert all(torch.equal(found[name], theirs[name]) for name in theirs)
    assert torch.equal(operation.weights["roi_head.bbox_head.fc_cls.weight"][-1],
                       base["state_dict"]["roi_head.bbox_head.fc_cls.weight"][-1])  # the background of the base
    assert operation.num_base == 5


def test_names_are_the_base_classes_where_only_they_have_rows():
    head = find_class_layers(softmax_head(NAMES, num_base=4))
    assert head.names == NAMES[:4]
    head = find_class_layers(softmax_head(NAMES, num_base=len(NAMES) - 1))  # C rows of C names: the last is background
    assert head.names == NAMES[:-1] and head.layers[0].background


def test_names_are_compared_in_any_of_their_spellings():
    head = find_class_layers(softmax_head(("zebra", "speaker_(stero_equipment)")))
    operation = operate(head, ("speaker_(stereo_equipment)",), None)
    assert operation.copied == ("speaker_(stereo_equipment)",) and operation.removed == ("zebra",)


def test_the_summary_is_a_table_of_layers_and_classes():
    text = str(operate(find_class_layers(softmax_head(NAMES[:3])), ("cup", "owl"), RandomRows()))
    assert "roi_head.bbox_head.fc_cls.weight" in text and "[4, 6]" in text and "[3, 6]" in text
    assert "copied               1 classes: cup" in text and "removed              2 classes: zebra" in text
    assert "new (random)         1 classes: owl" in text


@pytest.mark.parametrize(("names", "num_base"), [(("zebra", "owl"), 1), (("owl", "zebra"), None), (("zebra",), 1)])
def test_what_was_trained_is_recorded_only_where_it_comes_first(names, num_base):
    assert operate(find_class_layers(softmax_head(NAMES[:3])), names, RandomRows()).num_base == num_base


@pytest.mark.parametrize(("names", "source", "says"), [
    (("zebra", "howl"), None, "no class 'howl'; did you mean owl"),
    (("zebra", "zebra"), None, "'zebra' is named twice"),
    ((), None, "no class is left"),
    (("zebra", "owls"), "combine", "novel.pth: has no class 'owls'.*did you mean owl"),
    (("zebra", "owl"), "narrow", r"fc_cls.weight has the shape \(3, 5\).*same head"),
])
def test_mistakes_are_refused(names, source, says):
    novel = softmax_head(("owl", "kite"))
    if source == "narrow":
        for key in [key for key in novel["state_dict"] if "fc_cls.weight" in key]:
            novel["state_dict"][key] = torch.zeros(3, 5)
    rows = RowsOfCheckpoint(find_class_layers(novel), "novel.pth") if source else None
    with pytest.raises(UserError, match=says):
        operate(find_class_layers(softmax_head(("zebra", "cup", "owl") if source is None else ("zebra", "cup"))),
                names, rows)


def test_a_checkpoint_without_names_needs_them_and_wrong_ones_are_refused():
    nameless = {**softmax_head(NAMES[:3]), "meta": {}}
    with pytest.raises(UserError, match=r"base\.pth: does not carry the names.*--names FILE"):
        find_class_layers(nameless, source="base.pth")
    assert find_class_layers(nameless, NAMES[:3]).names == NAMES[:3]
    with pytest.raises(UserError, match=r"fc_cls has 4 rows and there are 5 class names.*--names FILE"):
        find_class_layers(nameless, NAMES[:5])
    with pytest.raises(UserError, match="no classifier with a row for each class"):
        find_class_layers({"state_dict": {"projection.weight": torch.zeros(2, 2)}})
