"""The detector: training and detecting in every mode, distillation in the shared pass, vocabularies, diagnostics."""

import math

import pytest
import torch
from detector_steps import detect, diagnose, losses, step, test_batch, with_gradient
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from small_vocabulary import NAMES, SPLIT, make_head

from ovd.errors import UserError
from ovd.models.postprocess import class_wise_nms

MODES = ("text", "image", "both")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_and_detects(build, batch, mode):
    detector = build(mode)
    first = step(detector, batch())
    assert all(math.isfinite(value) for value in first.values())
    assert ("loss_cls" in first) == (mode != "image")
    assert ("loss_distill" in first) == (mode != "text")
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_bbox", "loss_mask"} <= first.keys()
    trainable = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert with_gradient(detector) == trainable
    for sample in detect(detector, test_batch(batch)):
        found = sample.pred_instances
        assert len(found) == len(found.bboxes) == len(found.scores) == len(found.labels) == len(found.masks) <= 300
        assert found.masks.shape[1:] == sample.ori_shape
        assert ((found.labels >= 0) & (found.labels < 6)).all()
        assert "roi_index" not in found


@pytest.mark.parametrize("mode", MODES)
def test_training_repeats_bit_for_bit(build, batch, mode):
    runs = []
    for _ in range(2):
        detector = build(mode)
        optimiser = torch.optim.SGD(detector.parameters(), 0.01)
        values = []
        for number in range(2):
            values.append(step(detector, batch(seed=number)))
            optimiser.step()
        runs.append((values, detector.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


def test_training_lowers_the_losses(build, batch):
    detector = build("both")
    optimiser = torch.optim.AdamW(detector.parameters(), 2e-3)
    first = step(detector, batch())
    for _ in range(12):
        optimiser.step()
        last = step(detector, batch())
    assert last["loss_cls"] < first["loss_cls"] / 2
    detector.roi_head.distillation.iterations.zero_()
    assert losses(detector, batch())["loss_distill"] < first["loss_distill"]


def test_distillation_compares_the_regions_own_features(build, batch):
    """One pass over sampled RoIs and regions gives what a pass over the regions gives (but for batch statistics)."""
    def plain_head(config):
        config.roi_head.bbox_head.norm_cfg = None
    detector = build("both", adapt=plain_head)
    detector.roi_head.distillation.warmup = 0
    shared = losses(detector, batch())["loss_distill"]
    data = detector.data_preprocessor(batch(), True)
    regions = [sample.regions for sample in data["data_samples"]]
    levels = detector.extract_feat(data["inputs"])
    head = detector.roi_head.bbox_head
    features = detector.roi_head.bbox_roi_extractor(levels[:4], bbox2roi([image.bboxes for image in regions]))
    student = head.embed(head.trunk(features))
    teacher = torch.cat([image.embeddings for image in regions]).float()
    assert torch.allclose(student.norm(dim=1), torch.ones(8))
    assert shared.item() == pytest.approx(0.5 * (student - teacher).abs().sum().item() / 8, rel=1e-5)


def test_distillation_does_not_touch_the_other_losses(build, batch):
    def plain_head(config):
        config.roi_head.bbox_head.norm_cfg = None
    text, both = (losses(build(mode, adapt=plain_head), batch()) for mode in ("text", "both"))
    for name in text:
        assert float(both[name]) == pytest.approx(float(text[name]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("mode", ["image", "both"])
@pytest.mark.parametrize("regions", [(0, 4), (0, 0)])
def test_images_without_regions_leave_every_parameter_in_the_graph(build, batch, mode, regions):
    detector = build(mode)
    step(detector, batch())
    expected = with_gradient(detector)
    other = build(mode)
    values = step(other, batch(regions=regions))
    assert with_gradient(other) == expected
    assert math.isfinite(values["loss_distill"])
    assert (values["loss_distill"] == 0) == (sum(regions) == 0)


def test_a_pipeline_without_regions_is_refused_unless_text_only(build, batch):
    with pytest.raises(UserError, match="PackRegions"):
        losses(build("both"), batch(regions=(None, None)))
    assert "loss_cls" in losses(build("text"), batch(regions=(None, None)))


def test_unknown_mode_is_refused(build):
    with pytest.raises(UserError, match="'teacher' is not one of"):
        build("teacher")


def test_warmup_survives_a_checkpoint(build, batch):
    detector = build("both")
    for _ in range(3):
        losses(detector, batch())
    resumed = build("both", seed=1)
    resumed.load_state_dict(detector.state_dict())
    assert resumed.roi_head.distillation.iterations == 3
    assert losses(resumed, batch())["loss_distill"] == losses(detector, batch())["loss_distill"]


@pytest.mark.parametrize("mode", MODES)
def test_autocast_trains_with_finite_losses_and_full_precision_rois(build, batch, mode, monkeypatch):
    detector = build(mode)
    extractor = detector.roi_head.bbox_roi_extractor
    seen = []
    plain = extractor.forward
    monkeypatch.setattr(extractor, "forward", lambda levels, rois: seen.append(levels[0].dtype) or plain(levels, rois))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = step(detector, batch())
    assert all(math.isfinite(value) for value in values.values())
    assert set(seen) == {torch.float32}


def test_a_batch_detects_what_single_images_do(build, batch):
    detector = build("image")
    data = test_batch(batch, regions=(0, 0))
    together = detect(detector, data)
    for index, sample in enumerate(together):
        alone, = detect(detector, {key: value[index:index + 1] for key, value in data.items()})
        assert torch.allclose(sample.pred_instances.scores, alone.pred_instances.scores, atol=1e-5)
        assert torch.allclose(sample.pred_instances.bboxes, alone.pred_instances.bboxes, atol=1e-3)


def test_boxes_come_in_original_pixels(build, batch):
    detector = build("image")
    original = detect(detector, test_batch(batch), rescale=True)[0].pred_instances
    as_fed = detect(detector, test_batch(batch), rescale=False)[0].pred_instances
    assert len(original) > 10
    assert torch.allclose(original.bboxes * 2, as_fed.bboxes, atol=1e-3)
    assert torch.equal(original.labels, as_fed.labels)


def test_masks_are_those_of_each_detections_own_box(build, batch):
    """Masks are made once a RoI; mmdet makes them once a detection."""
    detector = build("image")
    data = detector.data_preprocessor(test_batch(batch), False)
    found = [sample.pred_instances for sample in detect(detector, test_batch(batch))]
    plain = [sample.pred_instances for sample in detect(detector, test_batch(batch), rescale=False)]
    assert len(found[0].bboxes.unique(dim=0)) < len(found[0])
    with torch.no_grad():
        levels = detector.extract_feat(data["inputs"])
        metas = [sample.metainfo for sample in data["data_samples"]]
        expected = super(type(detector.roi_head), detector.roi_head).predict_mask(levels, metas, plain, rescale=True)
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours.masks, theirs.masks)


def test_no_proposals_give_no_detections(build, batch):
    detector = build("both")
    data = test_batch(batch)
    for sample in data["data_samples"]:
        sample.proposals = sample.regions[:0]
    for sample in detect(detector, data):
        assert len(sample.pred_instances) == 0
        assert sample.pred_instances.masks.shape == (0, 48, 64)


def test_vocabulary_can_be_replaced_after_training(build, batch):
    detector = build("image")
    before = detect(detector, test_batch(batch))[0].pred_instances
    detector.set_class_head(make_head(NAMES[::-1]))
    assert detector.class_names == NAMES[::-1]
    after = detect(detector, test_batch(batch))[0].pred_instances
    assert torch.allclose(before.scores, after.scores, atol=1e-5)
    assert sorted(before.labels.tolist()) == sorted((5 - after.labels).tolist())
    detector.set_class_head(make_head([f"thing {number}" for number in range(1203)]))
    many = detect(detector, test_batch(batch))[0].pred_instances
    assert len(many) == 300
    assert many.labels.max() > 6
    assert losses(build("text"), batch())  # the shared config was not changed


def test_checkpoint_loads_into_another_vocabulary(build, batch):
    trained = build("both")
    other = build("both", seed=1, class_head=make_head(("x", "y", "z")), split=None)
    other.load_state_dict(trained.state_dict(), strict=True)
    other.set_class_head(trained_head := make_head())
    for ours, theirs in zip(detect(other, test_batch(batch)), detect(trained, test_batch(batch))):
        assert torch.equal(ours.pred_instances.scores, theirs.pred_instances.scores)
    assert other.class_names == trained_head.names


@pytest.mark.parametrize("mode", MODES)
def test_ground_truth_labels_are_the_arg_max_at_the_ground_truth_boxes(build, batch, mode):
    detector = build(mode, adapt=diagnose)
    found = detect(detector, test_batch(batch))
    data = detector.data_preprocessor(batch(), False)  # ground truth in input pixels
    with torch.no_grad():
        levels = detector.extract_feat(data["inputs"])
        rois = bbox2roi([sample.gt_instances.bboxes for sample in data["data_samples"]])
        logits, _ = detector.roi_head.bbox_head(detector.roi_head.bbox_roi_extractor(levels[:4], rois))
    expected = logits[:, :6].argmax(1)
    assert torch.equal(torch.cat([sample.gt_pred_labels for sample in found]), expected)
    assert [len(sample.gt_pred_labels) for sample in found] == [3, 3]


@pytest.mark.parametrize("mode", ["image", "both"])
def test_one_label_detections_are_votes_of_whole_rois(build, batch, mode):
    detector = build(mode, adapt=diagnose)
    found = detect(detector, test_batch(batch))
    data = detector.data_preprocessor(test_batch(batch), False)
    head = detector.roi_head.bbox_head
    with torch.no_grad():
        levels = detector.extract_feat(data["inputs"])
        for index, proposals in enumerate(detector.rpn_head.predict(levels, data["data_samples"], rescale=False)):
            rois = bbox2roi([proposals.bboxes])
            rois[:, 0] = index
            logits, deltas = head(detector.roi_head.bbox_roi_extractor(levels[:4], rois))
            scores = logits.softmax(-1)[:, :6]
            votes = torch.stack([torch.where(row == row.max(), row, 0) for row in scores])
            boxes = head.bbox_coder.decode(rois[:, 1:], deltas, max_shape=(96, 128)) / 2
            expected = class_wise_nms(boxes, votes, 1e-4, 0.5, 300)
            voted = found[index].pred_one_label
            assert torch.allclose(voted.scores, expected.scores, atol=1e-5)
            assert torch.equal(voted.labels, expected.labels)
            assert torch.allclose(voted.bboxes, expected.bboxes, atol=1e-3)


def test_diagnostics_change_no_detection(build, batch):
    plain = detect(build("image"), test_batch(batch))
    diagnosed = detect(build("image", adapt=diagnose), test_batch(batch))
    for ours, theirs in zip(diagnosed, plain):
        assert "gt_pred_labels" in ours
        assert "gt_pred_labels" not in theirs
        assert torch.equal(ours.pred_instances.labels, theirs.pred_instances.labels)
        assert torch.allclose(ours.pred_instances.scores, theirs.pred_instances.scores, atol=1e-6)


def test_diagnostics_take_images_without_objects(build, batch):
    data = test_batch(batch)
    data["data_samples"][0].gt_instances = data["data_samples"][0].gt_instances[:0]
    found = detect(build("both", adapt=diagnose), data)
    assert [len(sample.gt_pred_labels) for sample in found] == [0, 3]


def test_diagnostics_without_annotations_are_refused(build, batch):
    data = test_batch(batch)
    for sample in data["data_samples"]:
        del sample.gt_instances
    with pytest.raises(UserError, match="LoadAnnotations"):
        detect(build("both", adapt=diagnose), data)


def test_class_specific_masks_are_refused(build):
    def class_specific(config):
        config.roi_head.mask_head.update(class_agnostic=False, num_classes=6)
    with pytest.raises(UserError, match="class_agnostic=True"):
        build("both", adapt=class_specific)


def test_base_config_synchronises_norms_and_reverts_on_one_device(root):
    config = Config.fromfile(root / "configs/_base_/models/vild_mask_rcnn_r50_fpn.py").model
    config.backbone.init_cfg = None
    config.roi_head.bbox_head.classifier.update(class_head=make_head(width=512), split=SPLIT)
    detector = MODELS.build(config)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in detector.modules())
    detector = revert_sync_batchnorm(detector)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in detector.modules())
    assert [tuple(layer.weight.shape) for layer in detector.roi_head.bbox_head.shared_fcs] == [(1024, 256 * 49)]
    assert len(detector.roi_head.bbox_head.shared_convs) == 4
    assert tuple(detector.roi_head.bbox_head.fc_reg.weight.shape) == (4, 1024)
    assert tuple(detector.roi_head.mask_head.conv_logits.weight.shape) == (1, 256, 1, 1)


def test_proposal_network_ignores_classes(root, batch):
    config = Config.fromfile(root / "configs/_base_/models/rpn_r50_fpn.py").model
    config.backbone = {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_cfg": {"type": "BN"}, "norm_eval": True}
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    torch.manual_seed(0)
    network = MODELS.build(config)
    values = []
    for labels in ([0, 1, 2], [3, 3, 3]):
        data = batch(regions=(0, 0))
        for sample in data["data_samples"]:
            sample.gt_instances.labels = torch.tensor(labels)
        values.append({name: value.item() for name, value in losses(network, data).items()})
    assert values[0] == values[1]
    found = detect(network, test_batch(batch))[0].pred_instances
    assert 0 < len(found) <= 1000
