"""AP of groups of classes against pycocotools and lvis-api, on random scenes."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovd.errors import UserError
from ovd.evaluation.average_precision import Detections, GroundTruth, class_ap, group_ap, groups_of

SIDE = 120


def random_scene(seed: int, lvis: bool = False, first_id: int = 0, classes: int = 6):
    """A ground-truth dict and detections near it: crowds, a class without ground truth, images without anything."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(classes * 3)[:classes] + first_id
    images = [{"id": int(i), "height": SIDE, "width": SIDE} for i in rng.permutation(40)[:14] + first_id]
    categories = [{"id": int(i), "name": f"class {k}", "frequency": "rcf"[k % 3]} for k, i in enumerate(ids)]
    annotations, rows = [], []
    for image in images[1:]:
        for _ in range(int(rng.integers(0, 6))):
            label = int(rng.integers(classes - 1))
            x, y, w, h = (*rng.uniform(0, SIDE - 45, 2), *rng.uniform(3, 45, 2))
            crowd = int(not lvis and rng.random() < 0.1)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            rle = coco_mask.merge(coco_mask.frPyObjects([polygon], SIDE, SIDE))
            segmentation = [polygon]
            if crowd:
                segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            annotations.append({"id": len(annotations) + first_id, "image_id": image["id"], "bbox": [x, y, w, h],
                                "category_id": int(ids[label]), "area": float(coco_mask.area(rle)), "iscrowd": crowd,
                                "segmentation": segmentation})
            for _ in range(int(rng.integers(0, 4))):
                box = np.array([x, y, x + w, y + h]) + rng.normal(0, 2.5, 4)
                found = label if rng.random() < 0.75 else int(rng.integers(classes))
                rows.append((image["id"], np.sort(box.reshape(2, 2), axis=0).clip(0, SIDE).ravel(), found))
    for image in images:
        present = {a["category_id"] for a in annotations if a["image_id"] == image["id"]}
        others = [int(i) for i in ids if i not in present]
        image["neg_category_ids"] = [i for i in others if rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [i for i in present if rng.random() < 0.3]
    boxes = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4)
    masks = [coco_mask.frPyObjects([[x1, y1, x2, y1, x2, y2, x1, y2]], SIDE, SIDE)[0] for x1, y1, x2, y2 in boxes]
    detections = Detections(np.array([row[0] for row in rows], dtype=np.int64), boxes,
                            rng.permutation(len(rows)) / max(1, len(rows)),
                            np.array([row[2] for row in rows], dtype=np.int64), masks)
    truth = {"images": images, "categories": categories, "annotations": annotations}
    return truth, detections


def coco_results(detections: Detections, ids: list[int], kind: str) -> list[dict]:
    rows = []
    for index in range(len(detections)):
        x1, y1, x2, y2 = detections.boxes[index]
        row = {"image_id": int(detections.image_ids[index]), "category_id": ids[detections.labels[index]],
               "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(detections.scores[index])}
        rows.append(row | ({"segmentation": detections.masks[index]} if kind == "segm" else {}))
    return rows


def reference_coco(truth: dict, detections: Detections, kind: str) -> np.ndarray:
    """Precision [T, R, classes in the order of truth's categories] by pycocotools."""
    ids = [category["id"] for category in truth["categories"]]
    # pycocotools takes annotation id 0 for "unmatched": an error of its own, avoided here by other ids
    annotations = [{**a, "id": n + 1} for n, a in enumerate(truth["annotations"])]
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps({**truth, "annotations": annotations}))
        gt.createIndex()
        results = coco_results(detections, ids, kind)
        if kind == "segm":
            results = [{k: v for k, v in row.items() if k != "bbox"} for row in results]
        evaluation = COCOeval(gt, gt.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    order = [sorted(ids).index(i) for i in ids]
    return evaluation.eval["precision"][:, :, order, 0, -1]


def reference_lvis(truth: dict, detections: Detections, kind: str, tmp_path) -> np.ndarray:
    """Precision [T, R, classes in the order of truth's categories] by lvis-api."""
    ids = [category["id"] for category in truth["categories"]]
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(truth))
    gt = LVIS(str(path))
    results = coco_results(detections, ids, kind)
    if kind == "segm":
        results = [{k: v for k, v in row.items() if k != "bbox"} for row in results]
    evaluation = LVISEval(gt, LVISResults(gt, results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    order = [sorted(ids).index(i) for i in ids]
    return evaluation.eval["precision"][:, :, order, 0]


def write(tmp_path, truth: dict):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    return path


def plain_mean(values: np.ndarray) -> float:
    """The mean of the valid entries, in per cent, by a loop."""
    total, count = 0.0, 0
    for value in values.ravel().tolist():
        if value > -1:
            total, count = total + value, count + 1
    return 100 * total / count if count else math.nan


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), first_id=st.sampled_from([0, 1]), kind=st.sampled_from(["bbox", "segm"]))
def test_coco_group_ap_equals_pycocotools(tmp_path_factory, seed, first_id, kind):
    truth, detections = random_scene(seed, first_id=first_id)
    if not truth["annotations"] or not len(detections):
        return
    path = write(tmp_path_factory.mktemp("coco"), truth)
    classes = [category["name"] for category in truth["categories"]]
    ours = GroundTruth(path, classes).precision(detections, kind)
    reference = reference_coco(truth, detections, kind)
    for labels in ([0, 1, 2], [3, 4], [5], list(range(6))):
        np.testing.assert_allclose(group_ap(ours, labels), [plain_mean(reference[:, :, labels]),
                                                            plain_mean(reference[0][:, labels])], rtol=0, atol=1e-9)
    np.testing.assert_allclose(class_ap(ours), [plain_mean(reference[:, :, [i]]) for i in range(6)], rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_lvis_group_ap_equals_lvis_api(tmp_path, monkeypatch, seed, kind):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis-api was written for an older numpy
    truth, detections = random_scene(seed, lvis=True, first_id=1)
    classes = [category["name"] for category in truth["categories"]]
    ground_truth = GroundTruth(write(tmp_path, truth), classes)
    ours = ground_truth.precision(detections, kind, protocol="lvis")
    reference = reference_lvis(truth, detections, kind, tmp_path)
    groups = groups_of({"base": [0, 1, 2, 3], "novel": [4, 5], "all": list(range(6))}, ground_truth.frequencies, "lvis")
    assert list(groups) == ["base", "novel", "rare", "common", "frequent", "all"]
    assert groups["rare"] == [0, 3]
    for labels in groups.values():
        np.testing.assert_allclose(group_ap(ours, labels), [plain_mean(reference[:, :, labels]),
                                                            plain_mean(reference[0][:, labels])], rtol=0, atol=1e-9)


def test_federated_protocol_ignores_images_where_a_class_is_unknown(tmp_path):
    truth, _ = random_scene(0, lvis=True, first_id=1, classes=2)
    image = {"id": 1, "height": SIDE, "width": SIDE, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    other = {**image, "id": 2}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500.0, "iscrowd": 0,
           "segmentation": [[10, 10, 60, 10, 60, 60, 10, 60]]}
    truth = {"images": [image, other], "categories": [{"id": 1, "name": "a"}], "annotations": [box]}
    found = Detections(np.array([2, 1]), np.array([[0, 0, 9, 9], [10, 10, 60, 60]]), np.array([0.9, 0.8]),
                       np.array([0, 0]))
    ground_truth = GroundTruth(write(tmp_path, truth), ["a"])
    assert group_ap(ground_truth.precision(found, protocol="lvis"), [0])[1] == pytest.approx(100)
    assert group_ap(ground_truth.precision(found, protocol="coco"), [0])[1] == pytest.approx(50)


def test_classes_are_matched_by_name_and_others_are_left_out(tmp_path):
    truth, detections = random_scene(5)
    reference = reference_coco(truth, detections, "bbox")
    order = [4, 0, 2]  # another order, without classes 1, 3 and 5
    names = [truth["categories"][i]["name"] for i in order] + ["unheard of"]
    kept = np.isin(detections.labels, order)
    relabelled = Detections(detections.image_ids[kept], detections.boxes[kept], detections.scores[kept],
                            np.array([order.index(label) for label in detections.labels[kept]]))
    ours = GroundTruth(write(tmp_path, truth), names).precision(relabelled)
    # 100 detections an image are never reached, so the other classes cannot have displaced any
    np.testing.assert_allclose(ours[:, :, :3], reference[:, :, order], rtol=0, atol=1e-12)
    assert math.isnan(group_ap(ours, [3])[0])


def test_a_group_without_ground_truth_has_no_ap(tmp_path):
    truth, detections = random_scene(1)
    precision = GroundTruth(write(tmp_path, truth), [c["name"] for c in truth["categories"]]).precision(detections)
    assert all(math.isnan(value) for value in group_ap(precision, [5]))
    assert all(math.isnan(value) for value in group_ap(precision, []))


def test_no_detections_are_an_ap_of_zero(tmp_path):
    truth, _ = random_scene(2)
    nothing = Detections(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), [])
    ground_truth = GroundTruth(write(tmp_path, truth), [c["name"] for c in truth["categories"]])
    for kind in ("bbox", "segm"):
        assert group_ap(ground_truth.precision(nothing, kind), [0, 1, 2]) == (0.0, 0.0)


def test_only_the_best_detections_of_an_image_count(tmp_path):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500.0, "iscrowd": 0}
    truth = {"images": [{"id": 1, "height": SIDE, "width": SIDE}], "categories": [{"id": 1, "name": "a"}],
             "annotations": [box]}
    boxes = np.array([[0, 0, 5, 5]] * 4 + [[10, 10, 60, 60]], dtype=float)
    found = Detections(np.ones(5, np.int64), boxes, np.linspace(1, 0.5, 5), np.zeros(5, np.int64))
    ground_truth = GroundTruth(write(tmp_path, truth), ["a"])
    assert group_ap(ground_truth.precision(found), [0])[1] == pytest.approx(20)
    assert group_ap(ground_truth.precision(found, max_dets=4), [0])[1] == 0


def test_a_file_of_another_dataset_is_refused(tmp_path):
    truth, _ = random_scene(3)
    with pytest.raises(UserError, match="none of the 1 classes"):
        GroundTruth(write(tmp_path, truth), ["zebra"])


def test_a_broken_annotation_file_is_refused(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('{"images": [{"id": 1')
    with pytest.raises(UserError, match=r"cut\.json"):
        GroundTruth(path, ["a"])
