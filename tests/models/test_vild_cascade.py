"""The cascade: a chain of plain heads, each refining what the one before found."""

import math

import pytest
import torch
from detector_steps import detect, diagnose, losses, step, test_batch, with_gradient
from mmdet.structures.bbox import bbox2roi
from small_vocabulary import NAMES, make_head

from ovd.errors import UserError
from ovd.models.postprocess import class_wise_nms

BASE = "vild_ensemble_cascade_r50_fpn"
MODES = ("text", "image", "both", "ensemble")


@pytest.fixture
def cascade(build):
    """Function that builds a cascade with a temperature that leaves every class a chance."""

    def make(mode="ensemble", **options):
        return build(mode, base=BASE, **{"temperature_test": 0.1, **options})

    return make


def plain_norms(config) -> None:
    config.roi_head.bbox_head.norm_cfg = None


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_and_detects(cascade, batch, mode):
    detector = cascade(mode)
    found = step(detector, batch())
    assert all(math.isfinite(value) for value in found.values())
    for stage in range(3):
        assert {f"s{stage}.loss_bbox", f"s{stage}.loss_mask"} <= found.keys()
        assert (f"s{stage}.loss_cls" in found) == (mode != "image")
        assert (f"s{stage}.loss_distill" in found) == (mode != "text")
    assert with_gradient(detector) == {name for name, part in detector.named_parameters() if part.requires_grad}
    for sample in detect(detector, test_batch(batch)):
        instances = sample.pred_instances
        assert len(instances) == len(instances.masks) > 0
        assert instances.masks.shape[1:] == sample.ori_shape
        assert "roi_index" not in instances


def test_one_stage_is_the_plain_ensemble(build, cascade, batch):
    plain = build("ensemble", base="vild_ensemble_mask_rcnn_r50_fpn", adapt=diagnose, temperature_test=0.1)

    def one_stage(config):
        diagnose(config)
        config.roi_head.update(stage_loss_weights=[1.0], stage_target_stds=[[0.1, 0.1, 0.2, 0.2]])
        config.roi_head.bbox_head.loss_bbox = {"type": "L1Loss", "loss_weight": 1.0}
        config.train_cfg.rcnn = [plain.train_cfg.rcnn]
        config.test_cfg.rcnn.score_thr = plain.test_cfg.rcnn.score_thr
    detector = cascade(adapt=one_stage, seed=1)
    heads = ("bbox_head", "image_head", "mask_head", "distillation")
    weights = plain.state_dict()
    detector.load_state_dict({name.replace(f".{head}.", f".{head}.0."): value for name, value in weights.items()
                              for head in [next((head for head in heads if f".{head}." in name), "none")]})
    expected, found = losses(plain, batch()), losses(detector, batch())
    assert found.keys() == {name if "rpn" in name else f"s0.{name}" for name in expected}
    for name, value in expected.items():
        assert torch.equal(found[name if "rpn" in name else f"s0.{name}"], value)
    for ours, theirs in zip(detect(detector, test_batch(batch)), detect(plain, test_batch(batch))):
        for field, value in theirs.pred_instances.items():
            assert torch.equal(ours.pred_instances[field], value)
        assert torch.equal(ours.pred_one_label.scores, theirs.pred_one_label.scores)
        assert torch.equal(ours.gt_pred_labels, theirs.gt_pred_labels)


def slow_chain(detector, levels, rois, metas) -> tuple[torch.Tensor, torch.Tensor]:
    """RoIs one by one through the stages: mean of the fused probabilities, boxes of the last stage."""
    head = detector.roi_head
    all_scores, all_boxes = [], []
    for roi in rois:
        image, box = int(roi[0]), roi[1:]
        scores = 0
        for extractor, text_head, image_head in zip(head.bbox_roi_extractor, head.bbox_head, head.image_head):
            features = extractor(levels[:4], torch.cat([roi[:1], box])[None])
            trunk = text_head.trunk(features)
            p_text = text_head.classifier(text_head.embed(trunk)).softmax(1)[0, :6]
            p_image = image_head.classifier(image_head.embed(image_head.trunk(features))).softmax(1)[0]
            base, novel = slice(0, 4), slice(4, 6)
            fused = torch.cat([p_text[base] ** (2 / 3) * p_image[base] ** (1 / 3),
                               p_text[novel] ** (1 / 3) * p_image[novel] ** (2 / 3)])
            scores = scores + fused / 3
            deltas = text_head.fc_reg(trunk)
            box = text_head.bbox_coder.decode(box[None], deltas, max_shape=metas[image]["img_shape"])[0]
        all_scores.append(scores)
        all_boxes.append(box)
    return torch.stack(all_scores), torch.stack(all_boxes)


def test_detections_are_the_mean_of_the_stages_at_the_last_stages_boxes(cascade, batch):
    detector = cascade(adapt=diagnose)
    with torch.no_grad():
        for stage, head in enumerate(detector.roi_head.bbox_head):
            head.fc_reg.bias.copy_(torch.tensor([0.5, -0.3, 0.4, 0.2]) * (stage + 1))  # moves that are seen
    data = test_batch(batch)
    for sample in data["data_samples"]:
        sample.proposals = type(sample.regions)(bboxes=sample.regions.bboxes)
    found = detect(detector, data, rescale=False)
    prepared = detector.data_preprocessor(test_batch(batch), False)
    metas = [sample.metainfo for sample in prepared["data_samples"]]
    with torch.no_grad():
        levels = detector.extract_feat(prepared["inputs"])
        for index, sample in enumerate(batch()["data_samples"]):
            rois = bbox2roi([sample.regions.bboxes, sample.gt_instances.bboxes])
            rois[:, 0] = index
            scores, boxes = slow_chain(detector, levels, rois, metas)
            count = len(sample.regions)
            expected = class_wise_nms(boxes[:count], scores[:count], 1e-3, 0.5, 300)
            instances = found[index].pred_instances
            assert torch.allclose(instances.scores, expected.scores, rtol=1e-3)
            assert torch.equal(instances.labels, expected.labels)
            assert torch.allclose(instances.bboxes, expected.bboxes, atol=1e-2)
            assert torch.equal(found[index].gt_pred_labels, scores[count:].argmax(1))


def test_each_stage_learns_from_what_the_one_before_refined(cascade, batch, monkeypatch):
    detector = cascade(adapt=plain_norms)
    head = detector.roi_head
    seen = []
    loss = head._stage_loss

    def watch(stage, features, rois, sampled, regions):
        found, deltas = loss(stage, features, rois, sampled, regions)
        seen.append((rois, sampled, deltas.detach(), features))
        return found, deltas
    monkeypatch.setattr(head, "_stage_loss", watch)
    losses(detector, batch())
    assert len(seen) == 3
    for stage in (1, 2):
        rois, sampled, deltas, _ = seen[stage - 1]
        is_gt = torch.cat([torch.cat([part.pos_is_gt.bool(), torch.zeros(len(part.neg_priors), dtype=torch.bool)])
                           for part in sampled])
        assert is_gt.any()
        refined = head.bbox_head[stage - 1].decode(rois[~is_gt], deltas[~is_gt], (96, 128))
        given = torch.cat([part.priors[~torch.cat([part.pos_is_gt.bool(), torch.zeros(len(part.neg_priors)).bool()])]
                           for part in seen[stage][1]])
        assert all((row == refined).all(1).any() for row in given)
    # regions are the same at every stage
    assert all(torch.equal(features[-8:], seen[0][3][-8:]) for *_, features in seen)


def test_losses_are_weighted_by_stage(cascade, batch):
    def unweighted(config):
        config.roi_head.stage_loss_weights = [1.0, 1.0, 1.0]
    plain, weighted = losses(cascade(adapt=unweighted), batch()), losses(cascade(), batch())
    for stage, weight in enumerate((1, 0.5, 0.25)):
        for name in ("loss_cls", "loss_bbox", "loss_mask", "loss_distill"):
            assert torch.allclose(weighted[f"s{stage}.{name}"], weight * plain[f"s{stage}.{name}"])
        assert torch.equal(weighted[f"s{stage}.acc"], plain[f"s{stage}.acc"])


def test_stages_have_their_own_background_targets_and_warm_up(cascade, batch):
    head = cascade().roi_head
    assert len({id(part.classifier.background) for part in head.bbox_head}) == 3
    assert [part.bbox_coder.stds[0] for part in head.bbox_head] == [0.1, 0.05, 0.033]
    assert [stage.assigner.pos_iou_thr for stage in head.train_cfg] == [0.5, 0.6, 0.7]
    detector = cascade()
    for _ in range(2):
        losses(detector, batch())
    assert [int(part.iterations) for part in detector.roi_head.distillation] == [2, 2, 2]


@pytest.mark.parametrize("regions", [(0, 4), (0, 0)])
@pytest.mark.parametrize("mode", ["both", "ensemble"])
def test_images_without_regions_leave_every_parameter_in_the_graph(cascade, batch, mode, regions):
    detector = cascade(mode)
    values = step(detector, batch(regions=regions))
    assert with_gradient(detector) == {name for name, part in detector.named_parameters() if part.requires_grad}
    assert all(math.isfinite(value) for value in values.values())
    assert (values["s2.loss_distill"] == 0) == (sum(regions) == 0)


def test_no_proposals_give_no_detections(cascade, batch):
    data = test_batch(batch)
    for sample in data["data_samples"]:
        sample.proposals = sample.regions[:0]
    for sample in detect(cascade(), data):
        assert len(sample.pred_instances) == 0
        assert sample.pred_instances.masks.shape == (0, 48, 64)


def test_a_new_vocabulary_reaches_every_stage(cascade, batch):
    detector = cascade()
    before = detect(detector, test_batch(batch))[0].pred_instances
    detector.set_class_head(make_head(NAMES[::-1]))
    after = detect(detector, test_batch(batch))[0].pred_instances
    assert detector.class_names == NAMES[::-1]
    assert torch.allclose(before.scores, after.scores, rtol=1e-4)
    assert sorted(before.labels.tolist()) == sorted((5 - after.labels).tolist())
    detector.set_class_head(make_head([f"thing {number}" for number in range(300)]))
    assert detect(detector, test_batch(batch))[0].pred_instances.labels.max() > 6


def test_a_further_opinion_is_asked_of_the_last_stages_boxes(cascade, batch, monkeypatch):
    detector = cascade()
    detector.test_cfg.rcnn.update(rescore_alpha=1.0, rescore_beta=1.0)
    asked = []

    def rescore(rois):
        asked.append(rois)
        return torch.tensor([0.1, 0.1, 0.6, 0.1, 0.05, 0.05]).expand(len(rois), 6)
    monkeypatch.setattr(detector, "rescorer", lambda inputs, samples: rescore)
    found = detect(detector, test_batch(batch))
    assert len(asked) == 1
    assert found[0].pred_instances.labels[0] == 2
    assert float(found[0].pred_instances.scores[0]) == pytest.approx(0.6)


def test_stages_that_do_not_match_are_refused(cascade):
    def two_stds(config):
        config.roi_head.stage_target_stds = config.roi_head.stage_target_stds[:2]

    def one_setting(config):
        config.train_cfg.rcnn = config.train_cfg.rcnn[0]
    with pytest.raises(UserError, match="stage_target_stds"):
        cascade(adapt=two_stds)
    with pytest.raises(UserError, match=r"train_cfg\.rcnn"):
        cascade(adapt=one_setting)
