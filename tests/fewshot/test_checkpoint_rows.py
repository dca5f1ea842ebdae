"""Rows of trained detectors as class heads: the scores that the detector itself would give."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ovd.errors import UserError
from ovd.fewshot.sources.checkpoints import from_checkpoint

DIM = 6
NAMES = ("cat", "dog", "owl")


def checkpoint(path, layer: str, weight: torch.Tensor, bias=True, meta=None, **more):
    weights = {"backbone.conv1.weight": torch.ones(2, 2), "bbox_head.cls_convs.0.conv.weight": torch.ones(3),
               f"{layer}.weight": weight, **more}
    if bias:
        weights[f"{layer}.bias"] = torch.randn(len(weight), generator=torch.Generator().manual_seed(2))
    meta = {"classes": list(NAMES)} if meta is None else meta
    torch.save({"state_dict": weights, "meta": meta}, path)
    return weights


def rows(count: int, *more: int) -> torch.Tensor:
    return torch.randn(count, DIM, *more, generator=torch.Generator().manual_seed(1))


X = torch.randn(4, DIM, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("meta", [{"classes": list(NAMES)}, {"dataset_meta": {"classes": NAMES}}])
def test_a_softmax_with_background_keeps_its_probabilities(tmp_path, meta):
    layer = "roi_head.bbox_head.fc_cls"
    weights = checkpoint(tmp_path / "model.pth", layer, rows(4), meta=meta)
    head = from_checkpoint(tmp_path / "model.pth")
    expected = F.linear(X, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).softmax(1)
    torch.testing.assert_close(head.logits(X, with_background=True).softmax(1), expected)
    assert head.names == NAMES and head.norm == "linear" and head.space.startswith("roi:")
    assert head.provenance[1]["row"] == 1 and head.provenance[1]["layer"] == layer


@pytest.mark.parametrize("layer", ["bbox_head.cls_logits", "bbox_head.conv_cls"])
def test_sigmoid_rows_are_those_of_the_convolution(tmp_path, layer):
    weights = checkpoint(tmp_path / "model.pth", layer, rows(3, 1, 1))
    head = from_checkpoint(tmp_path / "model.pth", ["owl", "cat"])
    logits = F.conv2d(X[:, :, None, None], weights[f"{layer}.weight"], weights[f"{layer}.bias"])[:, :, 0, 0]
    torch.testing.assert_close(head.logits(X), logits[:, [2, 0]])
    assert head.names == ("owl", "cat") and head.background is None


@pytest.mark.parametrize("scale", [None, 33.0])
def test_rows_without_bias_are_compared_by_cosine(tmp_path, scale):
    layer, more = "roi_head.bbox_head.fc_cls", {} if scale is None else {"scale": torch.tensor(33.0)}
    checkpoint(tmp_path / "model.pth", layer, rows(4), bias=False, **{f"{layer}.{k}": v for k, v in more.items()})
    head = from_checkpoint(tmp_path / "model.pth")
    expected = (scale or 20.0) * F.cosine_similarity(X[:, None], rows(4)[None], dim=2)
    torch.testing.assert_close(head.logits(X, with_background=True), expected, rtol=1e-4, atol=1e-4)


def test_rows_of_another_detector_are_of_another_space(tmp_path):
    layer = "bbox_head.cls_logits"
    one = checkpoint(tmp_path / "one.pth", layer, rows(3, 1, 1))
    checkpoint(tmp_path / "rows.pth", layer, rows(3, 1, 1) * 2)
    checkpoint(tmp_path / "other.pth", layer, rows(3, 1, 1), **{"neck.fpn.weight": torch.ones(1)})
    heads = {name: from_checkpoint(tmp_path / f"{name}.pth") for name in ("one", "rows", "other")}
    assert heads["one"].space == heads["rows"].space != heads["other"].space
    heads["one"].select(["cat"]).concat(heads["rows"].select(["owl"]))
    with pytest.raises(UserError, match="different embedding spaces"):
        heads["one"].select(["cat"]).concat(heads["other"].select(["owl"]))
    detector = pytest.importorskip("ovd.models.sylph.detector")
    assert detector.CodeFCOS.space(SimpleNamespace(state_dict=lambda: one)) == heads["one"].space


def test_checkpoints_without_rows_by_name_are_refused_in_one_line(tmp_path):
    def saved(name, *args, **kwargs):
        checkpoint(tmp_path / name, *args, **kwargs)

    saved("no_names.pth", "bbox_head.cls_logits", rows(3, 1, 1), meta={"iter": 3})
    saved("head.pth", "roi_head.bbox_head.classifier", rows(1))
    saved("wide.pth", "bbox_head.conv_cls", rows(3, 3, 3))
    saved("many.pth", "bbox_head.cls_logits", rows(7, 1, 1))
    saved("nan.pth", "bbox_head.cls_logits", torch.full((3, DIM, 1, 1), torch.nan))
    saved("cascade.pth", "roi_head.bbox_head.0.fc_cls", rows(4), **{"roi_head.bbox_head.1.fc_cls.weight": rows(4)})
    saved("good.pth", "bbox_head.cls_logits", rows(3, 1, 1))
    for file, names, message in (
            ("none.pth", None, "no such checkpoint"), ("no_names.pth", None, "does not carry the names"),
            ("head.pth", None, "no classifier with a row for each class .*class head file"),
            ("wide.pth", None, "convolution of 3 x 3 places"), ("many.pth", None, "7 rows and there are 3"),
            ("nan.pth", None, "weights of class 'cat' have NaN"), ("cascade.pth", None, "2 classifiers"),
            ("good.pth", ["catt"], "no class 'catt'; did you mean cat")):
        with pytest.raises(UserError, match=message) as caught:
            from_checkpoint(tmp_path / file, names)
        assert file in str(caught.value) and "\n" not in str(caught.value)
