"""TFA's classifier is the formula; its detectors learn with their last layers alone."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from ovd.engine.config import load_config
from ovd.engine.head_surgery import RandomRows, find_class_layers, operate
from ovd.errors import UserError
from ovd.models import CosineLinear
from ovd.vocabulary.splits import Split

FINETUNE, FCOS = "configs/tfa/shapes_finetune.py", "configs/tfa/shapes_fcos_finetune.py"


def test_logits_are_scaled_cosines_and_the_weights_keep_their_length():
    torch.manual_seed(0)
    layer = CosineLinear(5, 3, scale=20.0)
    layer.weight.data *= 300
    before, features = layer.weight.detach().clone(), torch.randn(4, 5)
    logits = layer(features)
    for n in range(4):
        for k in range(3):
            x, w = features[n], before[k]
            expected = 20 * (x / (x.square().sum().sqrt() + 1e-5)) @ (w / (w.square().sum().sqrt() + 1e-5))
            assert logits[n, k].item() == pytest.approx(expected.item(), abs=1e-4)
    logits.sum().backward()
    assert torch.equal(layer.weight, before) and layer.weight.grad.abs().max() > 0
    assert torch.equal(layer(torch.zeros(1, 5)), torch.zeros(1, 3))


def test_gradients_pass_through_the_norms():
    torch.manual_seed(1)
    layer, features = CosineLinear(4, 3).double(), torch.randn(2, 4).double()
    layer.forward = lambda x: layer.scale * layer._unit(x) @ layer._unit(layer.weight).T  # in double precision

    def logits(weight):
        return torch.func.functional_call(layer, {"weight": weight}, features)

    assert torch.autograd.gradcheck(logits, layer.weight.detach().requires_grad_())


def test_the_scale_is_learned_only_if_told():
    assert [name for name, _ in CosineLinear(4, 3).named_parameters()] == ["weight"]
    learned = CosineLinear(4, 3, learn_scale=True)
    learned(torch.randn(2, 4)).square().sum().backward()
    assert learned.scale.item() == 20 and learned.scale.grad is not None
    with pytest.raises(UserError, match="must be above 0"):
        CosineLinear(4, 3, scale=0.0)


def build(config: str, split: Split | None = None):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = load_config(config).model
    if split is not None:
        model.bbox_head.split = split
    return MODELS.build(model)


def batch(detector, labels):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "scale_factor": (1.0, 1.0),
                                     "batch_input_shape": (64, 64), "pad_shape": (64, 64)})
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 22, 60, 60]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels))
    return torch.randn(1, 3, 64, 64), [sample]


def test_only_the_last_layers_learn_and_a_frozen_proposal_network_has_no_loss():
    detector = build(FINETUNE).train()
    losses = detector.loss(*batch(detector, [3, 90]))
    assert not any("rpn" in key for key in losses) and losses["loss_cls"].requires_grad
    sum(value for key, value in losses.items() if "loss" in key).backward()
    learning = {name.rsplit(".", 1)[0] for name, p in detector.named_parameters() if p.grad is not None}
    assert learning == {"roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"}
    config = load_config(FINETUNE).model
    whole = MODELS.build({**config, "frozen": []}).train()
    assert any("rpn" in key for key in whole.loss(*batch(whole, [3, 90])))


def test_base_logits_are_the_same_bits_after_the_head_has_grown():
    grown = build(FINETUNE).roi_head.bbox_head
    config = copy.deepcopy(load_config("configs/tfa/shapes_base.py").model.roi_head.bbox_head)
    small = MODELS.build(config)
    names = tuple(f"class {i}" for i in range(102))
    head = find_class_layers({"state_dict": small.state_dict(), "meta": {"classes": names[:72]}})
    grown.load_state_dict(operate(head, names, RandomRows()).weights)
    features = torch.randn(7, 512)
    then, now = small.fc_cls(features), grown.fc_cls(features)
    assert torch.equal(now[:, :72], then[:, :72]) and torch.equal(now[:, -1], then[:, -1])


@pytest.mark.parametrize(("learn", "rows"), [("all", 5), ("novel", 2), ("base", 3)])
def test_fcos_has_rows_for_the_part_that_learns(learn, rows):
    init_default_scope("mmdet")
    config = load_config(FCOS).model.bbox_head
    config.update(split=Split("tiny", "custom", base=("a", "b", "c"), novel=("d", "e")), learn=learn)
    head = MODELS.build(config)
    assert head.cls_logits.weight.shape[0] == rows
    assert head.base_names == {"all": tuple("abcde"), "novel": ("d", "e"), "base": tuple("abc")}[learn]


def test_fcos_keeps_its_towers():
    detector = build(FCOS, Split("tiny", "custom", base=("a", "b", "c"), novel=("d", "e"))).train()
    losses = detector.loss(*batch(detector, [0, 4]))
    sum(value for key, value in losses.items() if "loss" in key).backward()
    learning = {name.rsplit(".", 1)[0] for name, p in detector.named_parameters() if p.grad is not None}
    assert {"bbox_head.cls_logits", "bbox_head.conv_reg", "bbox_head.conv_centerness"} <= learning
    assert not any("convs" in name or name.startswith(("backbone", "neck")) for name in learning)
