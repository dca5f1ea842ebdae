"""The metric as detectors use it: records per image, groups, diagnostics, files of detections, the printed table."""

import contextlib
import io
import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_world import write_world

from ovd.errors import UserError
from ovd.evaluation.accuracy import group_accuracy
from ovd.evaluation.average_precision import Detections, GroundTruth, group_ap
from ovd.evaluation.metric import OpenVocabMetric, encode_masks
from ovd.evaluation.records import PackedMasks, merge, to_columns
from ovd.evaluation.results import save_detections
from ovd.evaluation.table import ap_table

BASE, NOVEL = ["red", "green", "blue"], ["yellow"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)


def make_metric(world, **kwargs) -> OpenVocabMetric:
    return OpenVocabMetric("annotations/val.json", "annotations/split.json", data_root=world, **kwargs)


def perfect_samples(world, diagnostics: bool = True) -> list[dict]:
    """Data samples as the evaluator passes them, whose detections are the ground truth."""
    contents = json.loads((world / "annotations" / "val.json").read_text())
    samples = []
    for image in contents["images"]:
        annotations = [a for a in contents["annotations"] if a["image_id"] == image["id"]]
        xywh = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
        boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        labels = torch.tensor([a["category_id"] for a in annotations])
        masks = [coco_mask.decode(coco_mask.frPyObjects(a["segmentation"], 64, 64))[:, :, 0] for a in annotations]
        found = {"bboxes": boxes, "scores": torch.linspace(0.9, 0.5, len(boxes)), "labels": labels,
                 "masks": torch.from_numpy(np.stack(masks)).bool()}
        sample = {"img_id": image["id"], "pred_instances": found, "gt_instances": {"bboxes": boxes, "labels": labels}}
        if diagnostics:
            sample |= {"pred_one_label": dict(found), "gt_pred_labels": labels.clone()}
        samples.append(sample)
    return samples


def evaluate(metric: OpenVocabMetric, samples: list[dict]) -> dict:
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples))


BOX_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def test_perfect_detections_score_100_in_every_figure(world):
    metric = make_metric(world)
    figures = evaluate(metric, perfect_samples(world))
    names = (*BOX_FIGURES, *(f"mask_{name}" for name in BOX_FIGURES), "top1_ap50", "accuracy")
    assert set(figures) == {f"{group}/{name}" for group in ("base", "novel", "all") for name in names}
    for name, value in figures.items():
        if name.endswith(("medium", "large")):  # no object is that large
            assert math.isnan(value), name
        else:
            assert value == pytest.approx(100), name
    for kind in ("bbox", "segm"):
        assert metric.class_ap[kind] == pytest.approx(dict.fromkeys((*BASE, *NOVEL), 100))


def test_ap75_and_sizes_and_classes_are_pycocotools(world, tmp_path):
    contents = json.loads((world / "annotations" / "val.json").read_text())
    rng = np.random.default_rng(5)
    for annotation in contents["annotations"]:  # areas of all sizes: what counts is the annotated one
        annotation["area"] = float(rng.choice([400, 3000, 20000]))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(contents))
    (tmp_path / "annotations" / "split.json").write_text((world / "annotations" / "split.json").read_text())
    samples = perfect_samples(world)
    for sample in samples:
        found = sample["pred_instances"]
        found["bboxes"] = found["bboxes"] + torch.from_numpy(rng.uniform(-6, 6, found["bboxes"].shape)).float()
        found["scores"] = torch.from_numpy(rng.random(len(found["scores"])))
    metric = make_metric(tmp_path, metric="bbox")
    figures = evaluate(metric, samples)
    rows = [{"image_id": s["img_id"], "category_id": int(label), "score": float(score),
             "bbox": [x1, y1, x2 - x1, y2 - y1]} for s in samples
            for (x1, y1, x2, y2), score, label in zip(s["pred_instances"]["bboxes"].numpy().astype(float).tolist(),
                                                      s["pred_instances"]["scores"], s["pred_instances"]["labels"])]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "annotations" / "val.json"))
        reference = COCOeval(truth, truth.loadRes(rows), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    expected = dict(zip(("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"), reference.stats))
    for name, value in expected.items():
        assert 0 < value < 1
        assert figures[f"all/{name}"] == pytest.approx(100 * value), name
    precision = reference.eval["precision"][:, :, :, 0, -1]
    by_class = {name: 100 * precision[:, :, label].mean() for label, name in enumerate((*BASE, *NOVEL))}
    assert metric.class_ap == {"bbox": pytest.approx(by_class)}


def test_groups_and_diagnostics_are_measured_apart(world):
    samples = perfect_samples(world)
    for sample in samples:
        novel = sample["gt_instances"]["labels"] == 3
        sample["pred_instances"]["scores"][novel] = 0.01  # ranked last, but right
        one_label = {key: value.clone() for key, value in sample["pred_instances"].items()}
        one_label["labels"][novel] = 0  # novel objects are taken for red
        sample["pred_one_label"] = one_label
        sample["gt_pred_labels"][novel] = 1
    figures = evaluate(make_metric(world), samples)
    assert figures["novel/ap50"] == pytest.approx(100)
    assert figures["novel/top1_ap50"] == 0
    assert figures["base/accuracy"] == pytest.approx(100)
    assert figures["novel/accuracy"] == 0
    assert 0 < figures["all/accuracy"] < 100
    assert figures["base/top1_ap50"] == pytest.approx(100)  # the false red ones rank below all true ones


def test_images_that_a_sampler_repeats_count_once(world):
    samples = perfect_samples(world)
    once = evaluate(make_metric(world), samples)
    assert evaluate(make_metric(world), samples + samples[:3]) == once


@settings(max_examples=12, deadline=None)
@given(data=st.data(), diagnostics=st.booleans())
def test_figures_do_not_depend_on_batches_their_order_or_processes(world, data, diagnostics):
    """Any order of images, any size of batches, any share of each process, with images that samplers repeat."""
    samples = perfect_samples(world, diagnostics)
    rng = np.random.default_rng(1)
    for sample in samples:
        sample["pred_instances"]["bboxes"] += torch.from_numpy(rng.normal(0, 2, (3, 4))).float()
        sample["pred_instances"]["scores"] = torch.from_numpy(rng.choice([0.3, 0.5, 0.7], 3))  # ties
    expected = evaluate(make_metric(world), samples)
    order = data.draw(st.permutations(range(len(samples))))
    ranks = [make_metric(world) for _ in range(data.draw(st.integers(1, 3)))]
    for index in [*order, *data.draw(st.lists(st.sampled_from(order), max_size=3))]:
        data.draw(st.sampled_from(ranks)).process(None, [samples[index]])
    ranks[0].process(None, [samples[i] for i in order[:2]])  # a batch of two
    main = ranks[0]
    parts = [pickle.loads(pickle.dumps(to_columns(rank.results))) for rank in ranks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovd.evaluation.metric.gather_object", lambda part, dst: parts)
        figures = main.evaluate(len(samples))
    assert repr(figures) == repr(expected)  # to the last digit; NaN where NaN
    for rank in ranks[1:]:
        assert rank.truth is None  # nothing has read the annotation file


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), parts=st.lists(st.integers(0, 3), min_size=1, max_size=4), masks=st.booleans())
def test_records_survive_columns(seed, parts, masks):
    rng = np.random.default_rng(seed)
    records = []
    for image_id in rng.permutation(sum(parts)).tolist():
        n, g = rng.integers(0, 4, 2)
        found = {"boxes": rng.random((n, 4), np.float32), "scores": rng.random(n), "labels": rng.integers(0, 9, n)}
        record = {"image_id": image_id, **found, "one_label": {key: value[:1] for key, value in found.items()},
                  "true_labels": rng.integers(0, 9, g), "labels_at_truth": rng.integers(0, 9, g)}
        if masks:
            record["masks"] = PackedMasks.of(encode_masks(rng.random((n, 5, 7)) > 0.5))
        records.append(record)
    starts = np.cumsum([0, *parts]).tolist()
    merged = merge([to_columns(records[a:b]) for a, b in pairwise(starts)])
    assert list(merged) == sorted(record["image_id"] for record in records)
    for record in records:
        again = merged[record["image_id"]]
        assert again.keys() == record.keys()
        for key in ("boxes", "scores", "labels", "true_labels", "labels_at_truth"):
            np.testing.assert_array_equal(again[key], record[key], strict=True)
        for key in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(again["one_label"][key], record["one_label"][key], strict=True)
        if masks:
            assert list(again["masks"]) == list(record["masks"])


def test_packed_masks_are_a_sequence_of_encodings():
    masks = encode_masks(np.random.default_rng(0).random((4, 9, 8)) > 0.5)
    packed = PackedMasks.of(masks)
    assert list(packed) == masks and [packed[i] for i in range(-4, 4)] == masks + masks
    assert len(packed) == 4 and len(PackedMasks.of([])) == 0 and list(PackedMasks.of([])) == []
    with pytest.raises(IndexError):
        packed[4]


def test_boxes_only(world):
    samples = perfect_samples(world, diagnostics=False)
    for sample in samples:
        del sample["pred_instances"]["masks"]
    assert set(evaluate(make_metric(world, metric="bbox"), samples)) == {
        f"{group}/{name}" for group in ("base", "novel", "all") for name in BOX_FIGURES}
    with pytest.raises(UserError, match="no masks"):
        evaluate(make_metric(world), samples)


def test_only_the_images_that_were_searched_count(world):
    samples = perfect_samples(world)[:2]
    assert evaluate(make_metric(world), samples)["all/ap50"] == pytest.approx(100)


def test_wrong_settings_are_refused(world):
    with pytest.raises(UserError, match="mask is not one of bbox, segm"):
        make_metric(world, metric=("bbox", "mask"))
    with pytest.raises(UserError, match="protocol 'voc'"):
        make_metric(world, protocol="voc")
    with pytest.raises(UserError, match=r"missing\.json: no such annotation file"):
        OpenVocabMetric("annotations/missing.json", "annotations/split.json", data_root=world)


def test_masks_are_encoded_as_pycocotools_does():
    masks = np.random.default_rng(0).random((5, 13, 21)) > 0.6
    reference = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    assert encode_masks(torch.from_numpy(masks)) == reference
    assert encode_masks(torch.zeros(0, 13, 21, dtype=torch.bool)) == []


def test_accuracy_against_a_loop():
    rng = np.random.default_rng(3)
    true, found = rng.integers(0, 6, 200), rng.integers(0, 6, 200)
    group = [1, 4]
    hits = [int(t == f) for t, f in zip(true, found) if t in group]
    assert group_accuracy(true, found, group) == pytest.approx(100 * sum(hits) / len(hits))
    assert math.isnan(group_accuracy(true, found, [17]))


def test_saved_detections_evaluate_to_the_same_figures(world, tmp_path):
    metric = make_metric(world)
    figures = evaluate(metric, perfect_samples(world))
    save_detections(tmp_path / "found.json", metric.detections, metric.truth)
    rows = json.loads((tmp_path / "found.json").read_text())
    boxes = np.array([row["bbox"] for row in rows])
    boxes[:, 2:] += boxes[:, :2]
    again = Detections(np.array([row["image_id"] for row in rows]), boxes, np.array([row["score"] for row in rows]),
                       np.array([row["category_id"] for row in rows]), [row["segmentation"] for row in rows])
    truth = GroundTruth(world / "annotations" / "val.json", BASE + NOVEL)
    assert group_ap(truth.precision(again, "segm"), [0, 1, 2])[0] == pytest.approx(figures["base/mask_ap"])
    save_detections(tmp_path / "found.pkl", metric.detections, metric.truth)
    images = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert [image["img_id"] for image in images] == sorted(metric.detections)
    assert sum(len(image["bboxes"]) for image in images) == len(rows)


def test_table_has_a_row_per_group_and_marks_what_is_not_there():
    text = ap_table({"base/ap50": 71.234, "base/accuracy": 80.0, "novel/ap50": math.nan, "novel/accuracy": 12.0})
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "classes"
    assert lines[2].split() == ["base", "71.2", "80.0"]
    assert lines[3].split() == ["novel", "-", "12.0"]
