"""ViLD-ensemble: two heads that learn apart and score together; base classes by name; a further opinion."""

import math

import pytest
import torch
from detector_steps import detect, diagnose, losses, step, test_batch, with_gradient
from mmdet.structures.bbox import bbox2roi
from small_vocabulary import NAMES, make_head
from test_fusion import slow_ensemble

from ovd.errors import UserError

BASE = "vild_ensemble_mask_rcnn_r50_fpn"
SOME_ROIS = torch.tensor([[0.0, 5, 5, 60, 60], [1, 20, 10, 90, 70], [0, 30, 30, 50, 80], [1, 0, 0, 128, 96]])


@pytest.fixture
def ensemble(build):
    """Function that builds an ensemble with a temperature that leaves every class a chance; ``test`` is put into
    test_cfg.rcnn."""

    def make(adapt=None, test=None, temperature_test=0.1, **options):
        def both(config):
            config.test_cfg.rcnn.update(test or {})
            if adapt is not None:
                adapt(config)
        return build("ensemble", base=BASE, adapt=both, temperature_test=temperature_test, **options)

    return make


@torch.no_grad()
def region_probabilities(detector, data: dict, rois=SOME_ROIS, rescore=None) -> torch.Tensor:
    detector.eval()
    data = detector.data_preprocessor(data, False)
    levels = detector.extract_feat(data["inputs"])
    return detector.roi_head.region_probabilities(levels, rois, data["data_samples"], rescore)[0]


@torch.no_grad()
def head_logits(detector, data: dict, rois=SOME_ROIS) -> tuple[list, list]:
    """Cosines over T of both heads' embeddings, the text head's with its background last; in plain Python."""
    detector.eval()
    data = detector.data_preprocessor(data, False)
    head = detector.roi_head
    features = head.bbox_roi_extractor(detector.extract_feat(data["inputs"])[:4], rois)
    found = []
    for part in (head.bbox_head, head.image_head):
        rows = [*part.classifier.classes_CMD[:, 0].tolist()]
        if part is head.bbox_head:
            rows.append(torch.nn.functional.normalize(part.classifier.background, dim=0).tolist())
        temperature = part.classifier.temperature_test
        found.append([[sum(a * b for a, b in zip(embedding, row)) / temperature for row in rows]
                      for embedding in part.embed(part.trunk(features)).tolist()])
    return found


def slow_probabilities(detector, data: dict, score_lambda: float) -> torch.Tensor:
    is_base = [name in NAMES[:4] for name in detector.class_names]
    return torch.tensor([slow_ensemble(text, image, is_base, score_lambda)
                         for text, image in zip(*head_logits(detector, data))])


@pytest.mark.parametrize("score_lambda", [None, 0.25])
def test_scores_follow_the_formula(ensemble, batch, score_lambda):
    detector = ensemble(test={} if score_lambda is None else {"score_lambda": score_lambda})
    expected = slow_probabilities(detector, batch(), score_lambda or 2 / 3)
    assert torch.allclose(region_probabilities(detector, batch()), expected, atol=1e-5)


def test_one_fixed_lambda_weighs_all_classes_alike(ensemble, batch):
    alone = {weight: region_probabilities(ensemble(test={"fixed_lambda": weight}), batch())
             for weight in (0.0, 0.6, 1.0)}
    assert torch.allclose(alone[0.0].sum(1), torch.ones(4))  # the image head alone, which knows no background
    assert (alone[1.0].sum(1) < 1).all()
    assert torch.allclose(alone[0.6], alone[1.0] ** 0.6 * alone[0.0] ** 0.4, rtol=1e-4)


def test_the_text_head_alone_detects_as_vild_text(build, ensemble, batch):
    detector = ensemble(test={"fixed_lambda": 1.0})
    text = build("text", seed=1, temperature_test=0.1)
    text.load_state_dict({name: value for name, value in detector.state_dict().items()
                          if "image_head" not in name and "distillation" not in name})
    for ours, theirs in zip(detect(detector, test_batch(batch)), detect(text, test_batch(batch))):
        assert torch.equal(ours.pred_instances.labels, theirs.pred_instances.labels)
        assert torch.equal(ours.pred_instances.scores, theirs.pred_instances.scores)


def test_detections_have_the_fused_scores(ensemble, batch):
    detector = ensemble()
    data = test_batch(batch)
    for index, sample in enumerate(data["data_samples"]):
        sample.proposals = type(sample.regions)(bboxes=SOME_ROIS[SOME_ROIS[:, 0] == index, 1:])
    found = detect(detector, data)
    scores = region_probabilities(detector, batch())
    for index, sample in enumerate(found):
        top = scores[SOME_ROIS[:, 0] == index].max()
        assert float(sample.pred_instances.scores[0]) == pytest.approx(float(top), rel=1e-5)
        assert sample.pred_instances.masks.shape[1:] == sample.ori_shape


def test_each_head_sees_only_what_it_learns_from(ensemble, batch):
    detector = ensemble()
    head = detector.roi_head
    seen = {"text": [], "image": [], "align": []}
    head.bbox_head.shared_convs[0].register_forward_pre_hook(lambda _, inputs: seen["text"].append(len(inputs[0])))
    head.image_head.shared_convs[0].register_forward_pre_hook(lambda _, inputs: seen["image"].append(len(inputs[0])))
    head.bbox_roi_extractor.register_forward_pre_hook(lambda _, inputs: seen["align"].append(len(inputs[1])))
    losses(detector, batch(regions=(5, 3)))
    assert seen["image"] == [8]
    assert seen["text"] == [seen["align"][0] - 8]


def test_heads_learn_apart(ensemble, batch):
    detector = ensemble()
    found = losses(detector, batch())
    found["loss_distill"].backward(retain_graph=True)
    touched = with_gradient(detector)
    assert any(name.startswith("roi_head.image_head.projection") for name in touched)
    assert not any(name.startswith("roi_head.bbox_head") for name in touched)
    assert any(name.startswith("backbone") for name in touched)
    detector.zero_grad()
    (found["loss_cls"] + found["loss_bbox"]).backward()
    assert not any(name.startswith("roi_head.image_head") for name in with_gradient(detector))


def test_it_trains_bit_for_bit_and_its_losses_fall(ensemble, batch):
    runs = []
    for _ in range(2):
        detector = ensemble()
        detector.roi_head.distillation.warmup = 0
        optimiser = torch.optim.AdamW(detector.parameters(), 2e-3)
        values = []
        for _ in range(6):
            values.append(step(detector, batch()))
            optimiser.step()
        runs.append(values)
    assert runs[0] == runs[1]
    first, last = values[0], values[-1]
    assert last["loss_cls"] < first["loss_cls"]
    assert last["loss_distill"] < first["loss_distill"]


@pytest.mark.parametrize("norm", [None, {"type": "BN"}])
@pytest.mark.parametrize("regions", [(5, 3), (0, 4), (0, 0)])
def test_every_parameter_is_in_the_graph_whatever_regions_there_are(ensemble, batch, regions, norm):
    def normed(config):
        config.roi_head.bbox_head.norm_cfg = norm
    detector = ensemble(adapt=normed)
    values = step(detector, batch(regions=regions))
    assert with_gradient(detector) == {name for name, part in detector.named_parameters() if part.requires_grad}
    assert all(math.isfinite(value) for value in values.values())
    assert all(torch.isfinite(value).all() for value in detector.state_dict().values())
    assert (values["loss_distill"] == 0) == (sum(regions) == 0)
    if not sum(regions):
        parameters = detector.roi_head.image_head.named_parameters()
        assert all((part.grad == 0).all() for _, part in parameters)


def test_autocast_trains_with_finite_losses(ensemble, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = step(ensemble(), batch())
    assert all(math.isfinite(value) for value in values.values())


def test_a_new_vocabulary_reaches_both_heads_and_base_classes_stay_base(ensemble, batch):
    detector = ensemble()
    before = region_probabilities(detector, batch())
    detector.set_class_head(make_head(NAMES[::-1]))
    assert detector.class_names == NAMES[::-1]
    assert torch.allclose(region_probabilities(detector, batch()), before.flip(1), rtol=1e-4)
    detector.set_class_head(make_head(("new", NAMES[4], NAMES[0])))
    expected = slow_probabilities(detector, batch(), 2 / 3)
    assert torch.allclose(region_probabilities(detector, batch()), expected, atol=1e-5)
    detector.set_class_head(make_head([f"thing {number}" for number in range(1203)]))
    assert detect(detector, test_batch(batch))[0].pred_instances.labels.max() > 6


def test_checkpoint_loads_into_another_vocabulary(ensemble, batch):
    trained = ensemble()
    other = ensemble(seed=1, class_head=make_head(("x", "y")), split=None)
    other.load_state_dict(trained.state_dict(), strict=True)
    for detector in (trained, other):
        detector.set_class_head(make_head(("new", "newer")))
    assert torch.equal(region_probabilities(other, batch()), region_probabilities(trained, batch()))


def test_the_image_head_differs_from_the_box_head_where_it_says_so(ensemble):
    def wider(config):
        config.roi_head.image_head.update(fc_out_channels=48, classifier={"temperature_test": 0.02})
    head = ensemble(adapt=wider).roi_head
    assert head.bbox_head.projection.in_features == 32
    assert head.image_head.projection.in_features == 48
    assert (head.bbox_head.classifier.temperature_test, head.image_head.classifier.temperature_test) == (0.1, 0.02)
    names = [name for name, _ in head.image_head.named_parameters()]
    assert not any("background" in name or "fc_reg" in name or "fc_cls" in name for name in names)


@pytest.mark.parametrize("name", ["score_lambda", "fixed_lambda", "rescore_alpha", "rescore_beta"])
@pytest.mark.parametrize("value", [1.5, "0.6"])
def test_weights_that_are_none_are_refused(ensemble, name, value):
    with pytest.raises(UserError, match=name):
        ensemble(test={name: value})


def test_an_image_head_outside_an_ensemble_is_refused(build):
    def add(config):
        config.roi_head.image_head = {}
    with pytest.raises(UserError, match="mode='ensemble'"):
        build("both", adapt=add)


def test_diagnostics_use_the_fused_scores(ensemble, batch):
    detector = ensemble(adapt=diagnose)
    found = detect(detector, test_batch(batch))
    boxes = [sample.gt_instances.bboxes for sample in batch()["data_samples"]]  # in input pixels
    expected = region_probabilities(detector, batch(), bbox2roi(boxes)).argmax(1)
    assert torch.equal(torch.cat([sample.gt_pred_labels for sample in found]), expected)
    for sample in found:
        assert float(sample.pred_one_label.scores[0]) == pytest.approx(float(sample.pred_instances.scores[0]))
        assert len(sample.pred_one_label) <= 40


def test_ground_truth_that_looks_like_background_still_has_a_best_class(ensemble, batch):
    """All its text probabilities are 0 in float32 then."""
    detector = ensemble(adapt=diagnose, temperature_test=0.002)
    rois = bbox2roi([sample.gt_instances.bboxes for sample in batch()["data_samples"]])  # in input pixels
    head = detector.roi_head
    with torch.no_grad():
        prepared = detector.eval().data_preprocessor(batch(), False)
        features = head.bbox_roi_extractor(detector.extract_feat(prepared["inputs"])[:4], rois[-1:])
        head.bbox_head.classifier.background.copy_(head.bbox_head.embed(head.bbox_head.trunk(features))[0])
    found = detect(detector, test_batch(batch))
    assert (region_probabilities(detector, batch(), rois)[-1] == 0).sum() >= 5
    text, image = (torch.tensor(logits[-1], dtype=torch.float64) for logits in head_logits(detector, batch(), rois))
    weights = torch.tensor([2 / 3] * 4 + [1 / 3] * 2)
    logs = weights * text.log_softmax(0)[:-1] + (1 - weights) * image.log_softmax(0)
    assert found[-1].gt_pred_labels[-1] == logs.argmax()


@pytest.mark.parametrize("alpha, beta", [(None, None), (0.0, 0.0), (0.2, 0.9), (1.0, 1.0)])
def test_a_further_opinion_is_fused_by_alpha_and_beta(ensemble, batch, alpha, beta):
    weights = {} if alpha is None else {"rescore_alpha": alpha, "rescore_beta": beta}
    detector = ensemble(test=weights)
    opinion = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)).softmax(1)
    plain = region_probabilities(detector, batch())
    fused = region_probabilities(detector, batch(), rescore=lambda rois: opinion)
    share = torch.tensor([0.35 if alpha is None else alpha] * 4 + [0.65 if beta is None else beta] * 2)
    assert torch.allclose(fused, plain ** (1 - share) * opinion ** share, rtol=1e-4, atol=1e-7)


def test_a_further_opinion_is_asked_of_proposals_and_ground_truth(ensemble, batch, monkeypatch):
    detector = ensemble(adapt=diagnose, test={"rescore_alpha": 1.0, "rescore_beta": 1.0})
    asked = []

    def rescore(rois):
        asked.append(rois)
        opinion = torch.full((len(rois), 6), 0.1)
        opinion[:, 2] = 0.5
        opinion[-3:, 2], opinion[-3:, 5] = 0.1, 0.5  # the second image's ground truth
        return opinion

    monkeypatch.setattr(detector, "rescorer", lambda inputs, samples: rescore)
    data = test_batch(batch)
    boxes = bbox2roi([sample.gt_instances.bboxes * 2 for sample in data["data_samples"]])
    found = detect(detector, data)
    assert torch.equal(asked[0][-6:], boxes)
    assert [sample.gt_pred_labels.tolist() for sample in found] == [[2, 2, 2], [5, 5, 5]]
    for sample in found:
        assert sample.pred_instances.labels[0] == 2
        assert float(sample.pred_instances.scores[0]) == pytest.approx(0.5)
        assert (sample.pred_one_label.labels == 2).all()
