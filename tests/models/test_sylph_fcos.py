"""FCOS whose classes are rows: losses as mmdet's, episodes, and detection where added classes change no base class."""

import copy

import pytest
import torch
from detector_steps import losses, step, test_batch, with_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models import DetDataPreprocessor
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from small_vocabulary import NAMES, SPLIT

from ovd.errors import UserError
from ovd.fewshot.hypernetworks import Codes
from ovd.models.sylph import CodeFCOSHead, Evidence
from ovd.stores.class_heads import ClassHead

STRIDES = [8, 16, 32]
WIDTH = 16
EXTRACTOR = {"type": "SingleRoIExtractor", "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
             "out_channels": WIDTH, "featmap_strides": STRIDES, "finest_scale": 28}
GENERATOR = {"type": "ConvolutionalCodeGenerator", "in_channels": WIDTH, "out_channels": WIDTH, "norm_groups": 4}
FA = {"frozen": ["backbone", "neck", "bbox_head"]}
FP = {**FA, "trainable": ["bbox_head.cls_convs"]}


def make(generator: bool = True, seed: int = 0, head: dict | None = None, **options):
    """A small detector with fixed weights."""
    config = {
        "type": "SylphFCOS", "data_preprocessor": {"type": DetDataPreprocessor, "pad_size_divisor": 32},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": True, "norm_cfg": {"type": "BN"}},
        "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": WIDTH, "start_level": 1, "num_outs": 3},
        "bbox_head": {"type": "CodeFCOSHead", "in_channels": WIDTH, "feat_channels": WIDTH, "stacked_convs": 1,
                      "strides": STRIDES, "split": SPLIT, "regress_ranges": ((-1, 32), (32, 64), (64, 1e8)),
                      "norm_cfg": {"type": "GN", "num_groups": 4}, **(head or {})},
        "test_cfg": {"score_thr": 1e-4, "nms_pre": 40, "nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 9}}
    if generator:
        config |= {"code_generator": GENERATOR, "support_extractor": EXTRACTOR}
    torch.manual_seed(seed)
    detector = MODELS.build({**config, **options})
    detector.init_weights()
    return detector


def episode(batch, n_way: int = 2, **kwargs) -> dict:
    """Two queries with boxes of two classes, then a support for each class (two where the batch has four)."""
    data = batch(regions=(None,) * (2 + n_way), **kwargs)
    names = tuple(NAMES[:n_way])
    for number, sample in enumerate(data["data_samples"]):
        sample.set_metainfo({"role": "query" if number < 2 else "support", "episode_classes": names})
        found = sample.gt_instances
        rows = [0, 1] if number < 2 else [number - 2]
        sample.gt_instances = InstanceData(bboxes=found.bboxes[rows], labels=torch.tensor(
            [0, 1] if number < 2 else [number - 2]))
    return data


@torch.no_grad()
def evidence_of(detector, data: dict):
    detector.eval()
    prepared = detector.data_preprocessor(copy.deepcopy(data), False)
    return detector.evidence(prepared["inputs"], prepared["data_samples"]), prepared["data_samples"]


def same(a: InstanceData, b: InstanceData) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("bboxes", "scores", "labels"))


def added_head(detector, count: int = 2, scale: float = 3.0) -> ClassHead:
    rows = scale * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))
    return ClassHead(tuple(f"new {i}" for i in range(count)), rows[:, None], bias=torch.zeros(count), norm="linear",
                     stats={"space": detector.space()})


@pytest.mark.parametrize("quality", (["centerness"], ["iou"], ["centerness", "iou"]))
def test_base_training_learns_every_parameter(batch, quality):
    detector = make(generator=False, head={"quality": quality})
    found = step(detector, batch())
    assert found.keys() == {"loss_cls", "loss_bbox", *(f"loss_{name}" for name in quality)}
    assert with_gradient(detector) == {name for name, p in detector.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(detector.parameters(), 2e-3)
    for _ in range(10):
        optimiser.step()
        last = step(detector, batch())
    assert last["loss_cls"] < found["loss_cls"]


def outputs(head: CodeFCOSHead, seed: int = 0):
    torch.manual_seed(seed)
    levels = [torch.randn(2, WIDTH, 96 // s, 128 // s) for s in STRIDES]
    return levels, head(levels)


def truth(labels: list[int]) -> list[InstanceData]:
    boxes = torch.tensor([[10.0, 10, 60, 60], [50, 20, 100, 80], [5, 40, 45, 90]])[:len(labels)]
    return [InstanceData(bboxes=boxes, labels=torch.tensor(labels)) for _ in range(2)]


@torch.no_grad()
def test_losses_are_those_of_mmdet():
    head = make().bbox_head
    _, (features, distances, quality) = outputs(head)
    theirs = FCOSHead(4, WIDTH, feat_channels=WIDTH, strides=STRIDES, regress_ranges=head.regress_ranges,
                      norm_cfg={"type": "GN", "num_groups": 4}, center_sampling=True, loss_bbox={"type": "GIoULoss"})
    expected = theirs.loss_by_feat([head.cls_logits(x) for x in features], distances, quality, truth([0, 3, 1]), [])
    found = head.loss_by_feat(features, distances, quality, truth([0, 3, 1]), [])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


@torch.no_grad()
def test_an_episode_may_have_more_classes_than_the_detector():
    head = make().bbox_head
    levels, (features, distances, quality) = outputs(head)
    weights, bias = torch.randn(6, WIDTH), torch.randn(6)
    theirs = FCOSHead(6, WIDTH, feat_channels=WIDTH, strides=STRIDES, regress_ranges=head.regress_ranges,
                      norm_cfg={"type": "GN", "num_groups": 4}, center_sampling=True)
    logits = [torch.einsum("bdhw,cd->bchw", x, weights) + bias[:, None, None] for x in features]
    for labels in ([5, 4, 0], [4, 4, 4]):
        expected = theirs.loss_by_feat(logits, distances, quality, truth(labels), [])["loss_cls"]
        torch.testing.assert_close(head.code_loss(levels, weights, bias, truth(labels)), expected)


@torch.no_grad()
def test_images_without_objects_have_finite_losses():
    head = make(head={"quality": ["centerness", "iou"]}).bbox_head
    _, found = outputs(head)
    empty = [InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)) for _ in range(2)]
    values = head.loss_by_feat(*found, empty, [])
    assert all(torch.isfinite(value) for value in values.values())
    assert values["loss_bbox"] == 0
    assert values["loss_cls"] > 0


@torch.no_grad()
def test_processes_with_and_without_objects_ask_for_the_same_means(monkeypatch):
    """Else one of them waits for ever, or takes another's gradients for its own."""
    asked = []
    monkeypatch.setattr("ovd.models.sylph.head.reduce_mean", lambda value: asked.append(value.shape) or value)
    head = make(head={"quality": ["centerness", "iou"]}).bbox_head
    _, found = outputs(head)
    head.loss_by_feat(*found, truth([0, 3]), [])
    with_objects = asked.copy()
    asked.clear()
    empty = [InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)) for _ in range(2)]
    head.loss_by_feat(*found, empty, [])
    assert asked == with_objects


def test_open_world_detection_learns_objects_of_any_class(batch):
    detector = make(generator=False, head={"class_agnostic": True})
    assert detector.class_names == ("object",)
    first = step(detector, batch())
    relabelled = batch()
    for sample in relabelled["data_samples"]:
        sample.gt_instances.labels = torch.tensor([2, 2, 0])
    assert step(detector, relabelled) == first


@pytest.mark.parametrize(("freezing", "trained"), (
    (FA, ("code_generator.",)), (FP, ("code_generator.", "bbox_head.cls_convs."))))
def test_an_episode_trains_what_is_not_frozen(batch, freezing, trained):
    detector = make(**freezing)
    found = step(detector, episode(batch))
    assert found.keys() == {"loss_cls"}  # boxes have none
    assert with_gradient(detector) == {name for name, _ in detector.named_parameters() if name.startswith(trained)}
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    optimiser = torch.optim.AdamW(detector.parameters(), 5e-3)
    for _ in range(12):
        optimiser.step()
        last = step(detector, episode(batch))
    assert last["loss_cls"] < 0.8 * found["loss_cls"]
    for name, value in detector.state_dict().items():
        assert name.startswith(trained) or torch.equal(value, before[name]), name


def test_what_is_frozen_is_said(capsys):
    make(**FA)
    printed = capsys.readouterr().out
    assert "trained: " in printed
    assert printed.split("trained: ")[1].splitlines()[0].endswith("code_generator")


def test_auxiliary_losses_of_an_episode(batch):
    generator = {**GENERATOR, "contrastive": {"weight": 0.5}}
    detector = make(distillation=2.0, code_generator=generator, **FA)
    data = episode(batch)
    found = losses(detector, data)
    assert found.keys() == {"loss_cls", "loss_contrastive", "loss_distill"}
    prepared = detector.data_preprocessor(data, True)
    supports = prepared["data_samples"][2:]
    features = detector.support_features(prepared["inputs"][2:], supports)
    codes = detector.code_generator(features, torch.tensor([0, 1]), 2)
    rows = detector.bbox_head.cls_logits
    expected = (codes.weights_CD - rows.weight[:2, :, 0, 0]).abs().mean() + (codes.bias_C - rows.bias[:2]).abs().mean()
    torch.testing.assert_close(found["loss_distill"], 2 * expected)


@torch.no_grad()
def test_the_detectors_logits_are_its_heads(batch):
    """The class head of the base classes gives what the 1x1 convolution gives."""
    detector = make()
    evidence, samples = evidence_of(detector, test_batch(batch))
    own = detector.detect(evidence, samples)
    detector.set_class_head(detector.base_head())
    for a, b in zip(own, detector.detect(evidence, samples)):
        assert len(a)
        assert same(a, b)
    features = evidence.features_BND[0]
    convolved = detector.bbox_head.cls_logits(features.T[None, :, None])[0, :, 0].T
    torch.testing.assert_close(detector.base_head().logits(features), convolved)


def test_predictions_are_detections_in_original_pixels(batch):
    detector = make()
    data = test_batch(batch)
    evidence, samples = evidence_of(detector, data)
    expected = detector.detect(evidence, samples)
    prepared = detector.data_preprocessor(copy.deepcopy(data), False)
    for sample, found in zip(detector.predict(prepared["inputs"], prepared["data_samples"]), expected):
        assert same(sample.pred_instances, found)
        assert found.bboxes.max() <= 64  # images were resized by 2 to 96 x 128
        assert (found.scores.diff() <= 0).all()


@torch.no_grad()
def test_added_classes_leave_base_detections_as_they_are_to_the_bit(batch):
    detector = make()
    evidence, samples = evidence_of(detector, test_batch(batch))
    base, added = detector.base_head(), added_head(detector)
    alone = detector.detect(evidence, samples)
    for head in (base.concat(added), added.concat(base), base.concat(added_head(detector, 70))):
        detector.set_class_head(head)
        assert detector.class_names == head.names
        for before, after in zip(alone, detector.detect(evidence, samples)):
            names = [head.names[label] for label in after.labels]
            kept = torch.tensor([name in SPLIT.base for name in names])
            assert not kept.all()  # added classes are detected too
            assert torch.equal(after.bboxes[kept], before.bboxes)
            assert torch.equal(after.scores[kept], before.scores)
            assert [n for n in names if n in SPLIT.base] == [SPLIT.base[label] for label in before.labels]
    detector.set_class_head(None)
    assert all(same(a, b) for a, b in zip(alone, detector.detect(evidence, samples)))


@torch.no_grad()
def test_codes_become_classes_one_by_one_or_together(batch):
    detector = make().eval()
    prepared = detector.data_preprocessor(batch(), False)
    features = detector.support_features(prepared["inputs"], prepared["data_samples"])
    assert features.shape == (6, WIDTH, 7, 7)
    labels = torch.tensor([0, 1, 2, 0, 0, 1])
    detector.train()
    both = detector.code_head(features, labels, ("x", "y", "z"), [{"from": "a"}, {}, {}])
    assert detector.code_generator.training  # as before
    alone = detector.code_head(features[labels == 1], torch.zeros(2, dtype=torch.long), ["y"])
    assert torch.equal(both.select(["y"]).weights, alone.weights)
    assert torch.equal(both.select(["y"]).bias, alone.bias)
    assert both.norm == "linear"
    assert both.space == detector.space()
    assert [entry["shots"] for entry in both.provenance] == [3, 2, 1]
    assert both.provenance[0]["from"] == "a"
    detector.set_class_head(detector.base_head().concat(both))
    assert detector.class_names == (*SPLIT.base, "x", "y", "z")


def test_features_that_were_kept_on_the_cpu_follow_the_detector(monkeypatch):
    detector, seen = make(), []
    detector.to("meta")  # stands for a GPU: what is computed there has no values, so they are made up
    monkeypatch.setattr(type(detector), "space", lambda self: "fcos:")
    monkeypatch.setattr(type(detector.code_generator), "forward", lambda self, features, labels, count: seen.append(
        (features.device.type, labels.device.type)) or Codes(torch.ones(count, WIDTH)))
    detector.code_head(torch.ones(3, WIDTH, 7, 7), torch.tensor([0, 1, 0]), ("x", "y"))
    assert seen == [("meta", "meta")]


def test_support_features_are_those_of_the_level_that_fits_the_box(batch):
    detector = make().eval()
    data = detector.data_preprocessor(batch(regions=(None,)), False)
    data["data_samples"][0].gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 28, 28], [0, 0, 120, 90]]), labels=torch.tensor([0, 0]))
    with torch.no_grad():
        found = detector.support_features(data["inputs"], data["data_samples"])
        levels = detector.extract_feat(data["inputs"])
        for row, (level, box) in enumerate(((0, [0, 8.0, 8, 28, 28]), (1, [0, 0.0, 0, 120, 90]))):
            expected = detector.support_extractor.roi_layers[level](levels[level], torch.tensor([box]))
            assert torch.equal(found[row], expected[0])


def test_a_generator_may_read_all_levels_of_a_box(batch):
    everything = {**EXTRACTOR, "type": "GenericRoIExtractor", "aggregation": "concat", "out_channels": 3 * WIDTH}
    everything.pop("finest_scale")
    detector = make(code_generator={**GENERATOR, "levels": 3}, support_extractor=everything, **FA)
    assert step(detector, episode(batch))["loss_cls"] > 0
    assert any("fusion" in name for name in with_gradient(detector))
    detector.eval()
    data = detector.data_preprocessor(batch(regions=(None,)), False)
    with torch.no_grad():
        found = detector.support_features(data["inputs"], data["data_samples"])
        levels = detector.extract_feat(data["inputs"])
        rois = torch.cat([torch.zeros(3, 1), data["data_samples"][0].gt_instances.bboxes], dim=1)
        for part, layer, level in zip(found.chunk(3, dim=1), detector.support_extractor.roi_layers, levels):
            assert torch.equal(part, layer(level, rois))


def slow_detect(evidence: Evidence, image: int, head: ClassHead, score_thr, nms_pre, iou_threshold, max_per_img):
    """Location by location, class by class, suppression by a double loop."""
    start, kept = 0, []
    for size in evidence.level_sizes:
        candidates = []
        for place in range(start, start + size):
            for label in range(len(head)):
                logit = evidence.features_BND[image, place] @ head.weights[label, 0] + head.bias[label]
                probability = 1 / (1 + float((-logit).exp()))
                quality = float(evidence.quality_BN[image, place])
                if probability > score_thr and quality > 0:
                    candidates.append(((probability * quality) ** 0.5, label, place))
        kept += sorted(candidates, reverse=True)[:nms_pre]
        start += size
    result = []
    for score, label, place in sorted(kept, reverse=True):
        x1, y1, x2, y2 = evidence.boxes_BN4[image, place].double().tolist()
        for _, other, (a1, b1, a2, b2) in result:
            inter = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            if other == label and inter > iou_threshold * ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inter):
                break
        else:
            result.append((score, label, (x1, y1, x2, y2)))
    return result[:max_per_img]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), nms_pre=st.integers(1, 30), max_per_img=st.integers(1, 20),
       score_thr=st.floats(0.05, 0.9))
def test_detection_is_that_of_a_double_loop(seed, nms_pre, max_per_img, score_thr):
    torch.manual_seed(seed)
    corner = torch.rand(2, 14, 2) * 40
    evidence = Evidence(torch.randn(2, 14, 5), torch.cat([corner, corner + 5 + torch.rand(2, 14, 2) * 30], 2),
                        torch.rand(2, 14) * (torch.rand(2, 14) > 0.2), (8, 4, 2))
    head = ClassHead(("a", "b", "c"), torch.randn(3, 1, 5), bias=torch.randn(3), norm="linear")
    cfg = {"score_thr": score_thr, "nms_pre": nms_pre, "iou_threshold": 0.5, "max_per_img": max_per_img}
    found, expected = evidence.detect(1, head, **cfg), slow_detect(evidence, 1, head, **cfg)
    assert found.labels.tolist() == [label for _, label, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-5)
    torch.testing.assert_close(found.bboxes, torch.tensor([box for *_, box in expected]).reshape(-1, 4))


def test_a_class_has_the_same_scores_to_the_bit_alone_and_with_others():
    torch.manual_seed(0)
    cfg = {"score_thr": 1e-4, "nms_pre": 999, "iou_threshold": 1.1, "max_per_img": 999}
    for _ in range(60):
        evidence = Evidence(3 * torch.randn(1, 21, 4), torch.tensor([[[0.0, 0, 9, 9]]]).expand(1, 21, 4),
                            torch.rand(1, 21), (21,))
        head = ClassHead(("a", "b", "c"), torch.randn(3, 1, 4), bias=torch.zeros(3), norm="linear")
        together = evidence.detect(0, head, **cfg)
        for label, name in enumerate(head.names):
            alone = evidence.detect(0, head.select([name]), **cfg).scores
            assert torch.equal(alone, together.scores[together.labels == label])


@torch.no_grad()
def test_evidence_is_what_the_layers_say():
    head = make(head={"quality": ["centerness", "iou"]}).bbox_head.eval()
    levels, (features, distances, quality) = outputs(head)
    evidence = head.evidence(levels, [{"img_shape": (90, 120)}, {"img_shape": (96, 128)}])
    assert evidence.level_sizes == (192, 48, 12)
    place = 192 + 2 * 8 + 5  # level 1, row 2, column 5 of 8
    assert torch.equal(evidence.features_BND[1, place], features[1][1, :, 2, 5])
    left, top, right, bottom = distances[1][1, :, 2, 5].tolist()
    x, y = 5.5 * 16, 2.5 * 16
    box = [max(0, x - left), max(0, y - top), min(128, x + right), min(96, y + bottom)]
    assert evidence.boxes_BN4[1, place].tolist() == pytest.approx(box)
    centerness, iou = quality[1][1, :, 2, 5].sigmoid().tolist()
    expected = (centerness * iou) ** 0.5 if box[2] > box[0] and box[3] > box[1] else 0
    assert float(evidence.quality_BN[1, place]) == pytest.approx(expected, abs=1e-6)


def test_the_space_is_that_of_the_class_features():
    detector = make()
    first = detector.space()
    with torch.no_grad():
        detector.bbox_head.conv_reg.weight.add_(1)
        detector.code_generator.scale.add_(1)
        assert detector.space() == first
        detector.bbox_head.cls_convs[0].conv.weight.add_(1)
    assert detector.space() != first


def test_a_class_head_in_the_config_is_detected(batch, tmp_path):
    detector = make()
    names = (*SPLIT.classes[::-1],)
    rows = ClassHead(names, torch.randn(6, 1, WIDTH), norm="linear", stats={"space": detector.space()})
    rows.save(tmp_path / "rows.safetensors")
    configured = make(head={"class_head": "rows.safetensors", "data_root": str(tmp_path)})
    assert configured.class_names == SPLIT.classes  # labels are the split's
    evidence, samples = evidence_of(configured, test_batch(batch))
    detector.set_class_head(rows.select(SPLIT.classes))
    assert all(same(a, b) for a, b in zip(configured.detect(evidence, samples), detector.detect(evidence, samples)))
    other = make(seed=1, head={"class_head": "rows.safetensors", "data_root": str(tmp_path)})
    with pytest.raises(UserError, match="space"):
        other.detect(evidence, samples)


def sample_of(role: str) -> DetDataSample:
    return DetDataSample(metainfo={"role": role, "episode_classes": ("a",)})


@pytest.mark.parametrize(("what", "message"), (
    (lambda: make(head={"quality": ["centreness"]}), "no box quality"),
    (lambda: make(head={"quality": []}), "one or both of centerness, iou"),
    (lambda: make(generator=False, code_generator=GENERATOR), "go together"),
    (lambda: make(code_generator={**GENERATOR, "out_channels": 8}), "set out_channels=16"),
    (lambda: make(generator=False).code_head(torch.zeros(1, 1, 1, 1), torch.zeros(1), ["a"]), "no code generator"),
    (lambda: make(generator=False).loss(torch.zeros(1, 3, 32, 32), [sample_of("query")]), "no code generator"),
    (lambda: make().code_head(torch.zeros(1, WIDTH, 7, 7), torch.tensor([1]), ["a", "b"]), "class 'a' has no support"),
    (lambda: make().set_class_head(make(seed=1).base_head()), "space")))
def test_what_does_not_fit_is_refused(what, message):
    with pytest.raises(UserError, match=message):
        what()
