"""Cached regions at test: they are what the detector looks at, and CLIP's embeddings of them have a say."""

import math

import pytest
import torch
from detector_steps import detect, diagnose, test_batch
from mmdet.structures.bbox import bbox2roi
from small_vocabulary import NAMES, make_head

from ovd.errors import UserError
from ovd.models.cached_clip import CachedClipScore


def plain_opinions(samples, rois, head):
    """Of each RoI: the softmax over the classes at the region that overlaps it most, in Python's floats."""
    opinions = []
    for index, *roi in rois.tolist():
        regions = samples[int(index)].regions
        overlaps = [plain_iou(roi, box) for box in regions.bboxes.tolist()]
        if not overlaps or max(overlaps) == 0:
            opinions.append([1 / len(head)] * len(head))
            continue
        row = regions.embeddings[overlaps.index(max(overlaps))].tolist()
        length = math.sqrt(sum(x * x for x in row))
        cosines = [sum(w * x for w, x in zip(weights, row)) / length for weights in head.weights[:, 0].tolist()]
        powers = [math.exp(head.scale * cosine) for cosine in cosines]
        opinions.append([power / sum(powers) for power in powers])
    return torch.tensor(opinions)


def plain_iou(a, b):
    sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    shared = sides[0] * sides[1]
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared)


def test_a_roi_has_the_opinion_of_the_region_that_overlaps_it_most(batch):
    samples = batch(regions=(7, 4))["data_samples"]
    elsewhere = torch.tensor([[0, 20.0, 30, 55, 70], [1, 12, 5, 40, 44], [1, 120, 90, 127, 95]])
    rois = torch.cat([bbox2roi([sample.regions.bboxes for sample in samples]), elsewhere])
    found = CachedClipScore().probabilities(samples, rois, make_head())
    torch.testing.assert_close(found, plain_opinions(samples, rois, make_head()), rtol=2e-3, atol=1e-5)
    assert found[-1].tolist() == pytest.approx([1 / 6] * 6)


def test_an_image_without_regions_has_flat_opinions_and_no_detections(build, batch):
    samples = batch(regions=(0, 3))["data_samples"]
    rois = torch.tensor([[0, 5.0, 5, 50, 50]])
    assert CachedClipScore().probabilities(samples, rois, make_head())[0].tolist() == pytest.approx([1 / 6] * 6)
    found = detect(cached(build, "both"), test_batch(batch, regions=(0, 3)))
    assert len(found[0].pred_instances) == 0 and len(found[1].pred_instances) > 0


def cached(build, mode, adapt=None, **weights):
    def change(config):
        config.cached_clip = True
        config.test_cfg.rcnn.update(score_thr=0.0, **weights)
        if adapt is not None:
            adapt(config)

    return build(mode, adapt=change)


@pytest.mark.parametrize("mode", ["text", "both", "ensemble"])
def test_detections_are_of_the_cached_boxes_with_both_opinions_fused(build, batch, mode):
    detector = cached(build, mode, rescore_alpha=1 / 3, rescore_beta=2 / 3)
    data = detector.data_preprocessor(batch(), False)
    rois = bbox2roi([sample.regions.bboxes for sample in data["data_samples"]])
    with torch.no_grad():
        detector.eval()
        own = detector.roi_head.region_probabilities(detector.extract_feat(data["inputs"]), rois,
                                                     data["data_samples"])[0]
    opinion = plain_opinions(data["data_samples"], rois, make_head())
    share = torch.tensor([1 / 3] * 4 + [2 / 3] * 2)
    expected = own ** (1 - share) * opinion ** share
    for index, sample in enumerate(detect(detector, test_batch(batch))):
        best = expected[rois[:, 0] == index].max()
        assert float(sample.pred_instances.scores[0]) == pytest.approx(float(best), rel=1e-2)
        fused = expected[rois[:, 0] == index].flatten().tolist()
        assert all(min(abs(score - value) for value in fused) < 1e-3 for score in sample.pred_instances.scores.tolist())


def test_with_all_the_weight_the_labels_are_clips(build, batch):
    detector = cached(build, "text", rescore_alpha=1.0, rescore_beta=1.0, adapt=diagnose)
    data = test_batch(batch)
    found = detect(detector, data)
    for given, sample in zip(batch()["data_samples"], found):
        rois = bbox2roi([given.gt_instances.bboxes])
        expected = plain_opinions([given], rois, make_head()).argmax(1)
        assert sample.gt_pred_labels.tolist() == expected.tolist()


def test_another_vocabulary_is_scored_with_its_embeddings(build, batch):
    detector = cached(build, "text", rescore_alpha=1.0, rescore_beta=1.0)
    detector.set_class_head(make_head(NAMES[4:] + NAMES[:1]))
    sample = batch()["data_samples"][0]
    opinion = plain_opinions([sample], bbox2roi([sample.regions.bboxes]), make_head(NAMES[4:] + NAMES[:1]))
    found = detect(detector, test_batch(batch))[0].pred_instances
    assert float(found.scores[0]) == pytest.approx(float(opinion.max()), rel=1e-2)
    assert int(found.labels[0]) == int(opinion.max(0).values.argmax())


def test_data_without_regions_and_two_further_opinions_are_refused(build, batch):
    with pytest.raises(UserError, match="LoadRegions"):
        detect(cached(build, "text"), test_batch(batch, regions=(None, None)))
    with pytest.raises(UserError, match="leave one out"):
        build("text", adapt=lambda config: config.update(cached_clip=True, dense_clip={"type": "DenseClipScore"}))


def test_with_independent_scores_what_is_added_changes_no_base_detection(build, batch):
    """Nor CLIP's opinion of base classes, of which a softmax over all classes would know what was added."""
    detector = cached(build, "both", scores="independent")
    results = []
    for added in ((), NAMES[4:], tuple(f"made up {number}" for number in range(70))):
        detector.set_class_head(make_head((*NAMES[:4], *added)))
        results.append([sample.pred_instances for sample in detect(detector, test_batch(batch, regions=(7, 0)))])
    alone = results.pop(0)
    for found in results:
        for before, after in zip(alone, found):
            base = after[after.labels < 4]
            assert all(torch.equal(base[key], before[key]) for key in ("bboxes", "scores", "labels"))
        assert len(alone[0]) and (found[0].labels >= 4).any()


def test_a_flat_opinion_is_flat_among_base_classes_where_scores_are_independent(batch):
    samples, is_base = batch(regions=(0, 3))["data_samples"], torch.tensor([True] * 4 + [False] * 2)
    found = CachedClipScore().probabilities(samples, torch.tensor([[0, 5.0, 5, 50, 50]]), make_head(), is_base)
    assert found[0].tolist() == pytest.approx([1 / 4] * 4 + [1 / 5] * 2)
