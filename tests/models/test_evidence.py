"""Evidence once, vocabularies many times: what a detector sees is kept apart from what it is asked for."""

import pytest
import torch
from detector_steps import detect, test_batch
from small_vocabulary import NAMES, SPLIT, make_head

from ovd.errors import UserError

BASES = {"both": "vild_mask_rcnn_r50_fpn", "ensemble": "vild_ensemble_mask_rcnn_r50_fpn",
         "cascade": "vild_ensemble_cascade_r50_fpn"}


def make(build, kind: str, **test):
    def adapt(config):
        config.test_cfg.rcnn.update(test)
    mode = "ensemble" if kind == "cascade" else kind
    return build(mode, base=BASES[kind], adapt=adapt, temperature_test=0.1).eval()


@torch.no_grad()
def seen(detector, data: dict):
    prepared = detector.data_preprocessor(data, False)
    return detector.evidence(prepared["inputs"], prepared["data_samples"]), prepared["data_samples"]


@pytest.mark.parametrize("kind", BASES)
def test_detecting_from_evidence_equals_predicting(build, batch, kind):
    detector = make(build, kind)
    evidence, samples = seen(detector, test_batch(batch))
    for head in (make_head(), make_head(("another", *NAMES[:3]))):
        detector.set_class_head(head)
        found = detector.detect(evidence, samples)
        for ours, sample in zip(found, detect(detector, test_batch(batch)), strict=True):
            theirs = sample.pred_instances
            assert len(ours) > 0
            assert all(torch.equal(ours[key], theirs[key]) for key in ("bboxes", "scores", "labels"))


@pytest.mark.parametrize("kind", BASES)
def test_base_detections_are_the_same_bits_whatever_is_added(build, batch, kind):
    detector = make(build, kind, scores="independent", max_per_img=7)
    evidence, samples = seen(detector, test_batch(batch))
    found = {}
    for added in ((), SPLIT.novel, tuple(f"made up {number}" for number in range(70))):
        detector.set_class_head(make_head((*SPLIT.base, *added)))
        found[added] = detector.detect(evidence, samples)
    alone = found.pop(())
    for results in found.values():
        for image, result in zip(alone, results):
            base = result[result.labels < len(SPLIT.base)]
            assert len(base) and all(torch.equal(base[key], image[key]) for key in ("bboxes", "scores", "labels"))
            assert (result.labels >= len(SPLIT.base)).any(), "the others have a budget of their own"


@pytest.mark.parametrize("kind", BASES)
def test_masks_of_base_classes_are_made_in_a_pass_without_what_is_added(build, batch, kind, monkeypatch):
    """The same bits for every mask, though other regions in a pass change the rounding of its products."""
    detector = make(build, kind, scores="independent", max_per_img=7)
    together, add_masks = [], detector.roi_head._add_masks

    def spy(x, metas, results, rescale):
        together.append([result.bboxes.clone() for result in results])
        add_masks(x, metas, results, rescale)

    monkeypatch.setattr(detector.roi_head, "_add_masks", spy)
    found = []
    for added in ((), SPLIT.novel):
        detector.set_class_head(make_head((*SPLIT.base, *added)))
        together.clear()
        results = detect(detector, test_batch(batch))
        found.append((together[0], results))
    (alone_boxes, alone), (boxes, beside) = found
    assert all(torch.equal(one, other) for one, other in zip(alone_boxes, boxes, strict=True))
    for before, after in zip(alone, beside):
        base = after.pred_instances[after.pred_instances.labels < len(SPLIT.base)]
        assert len(base) and len(base) < len(after.pred_instances)
        for key in ("bboxes", "scores", "labels", "masks"):
            assert torch.equal(torch.as_tensor(base[key]), torch.as_tensor(before.pred_instances[key]))


def test_boxes_are_embedded_as_proposals_are(build, batch):
    detector = make(build, "both")
    data = detector.data_preprocessor(batch(), False)
    with torch.no_grad():
        rows = detector.embed_boxes(data["inputs"], data["data_samples"])
        boxes = [sample.gt_instances.bboxes for sample in data["data_samples"]]
        levels = detector.extract_feat(data["inputs"])
        metas = [sample.metainfo for sample in data["data_samples"]]
        expected = detector.roi_head.evidence(levels, boxes, metas).found.stages[0][0]
    assert len(rows) == sum(map(len, boxes))
    assert torch.allclose(rows, expected, atol=1e-6)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)))


def test_unknown_kinds_of_scores_are_refused(build):
    with pytest.raises(UserError, match="scores='sigmoid' is not one of softmax, independent"):
        make(build, "both", scores="sigmoid")
