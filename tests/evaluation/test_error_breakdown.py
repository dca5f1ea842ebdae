"""TIDE's kinds of error: hand-made cases, a plain slow version, and hotcoco's, which equals tidecv."""

import contextlib
import io
import json

import numpy as np
import pytest
from hotcoco import COCOeval

from ovd.evaluation.average_precision import Detections, GroundTruth
from ovd.evaluation.error_breakdown import ERRORS, VERDICTS, judge

THEIRS = {"classification": "Cls", "localisation": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg",
          "missed": "Miss"}
NAMES = ("a", "b", "c", "d")


def truth_of(path, objects, images=1, crowds=(), lvis=None) -> GroundTruth:
    """``objects``: (image, label, x, y, width, height); ``lvis``: image -> further fields of it."""
    annotations = [{"id": i, "image_id": image, "category_id": label + 1, "bbox": list(box), "area": box[2] * box[3],
                    "iscrowd": int(i in crowds), "segmentation": []}
                   for i, (image, label, *box) in enumerate(objects, 1)]
    records = [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.png", **(lvis or {}).get(i, {})}
               for i in range(1, images + 1)]
    categories = [{"id": i, "name": name, "frequency": "f"} for i, name in enumerate(NAMES, 1)]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return GroundTruth(path, NAMES)


def found_of(rows) -> Detections:
    """``rows``: (image, label, x, y, width, height, score)."""
    table = np.array(rows, float).reshape(-1, 7)
    corners = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    return Detections(table[:, 0].astype(int), corners, table[:, 6], table[:, 1].astype(int))


OBJECT = (1, 0, 0, 0, 40, 40)


@pytest.mark.parametrize(("kind", "detection"), [
    ("correct", (0, 0, 0, 40, 40)),
    ("classification", (1, 0, 0, 40, 40)),
    ("localisation", (0, 0, 0, 40, 10)),  # IoU 0.25
    ("both", (1, 0, 0, 40, 10)),
    ("background", (0, 60, 60, 30, 30)),
    ("background", (1, 0, 0, 40, 2)),  # IoU 0.05
])
def test_each_kind_in_the_papers_words(tmp_path, kind, detection):
    label, *box = detection
    verdicts = judge(truth_of(tmp_path / "a.json", [OBJECT]), found_of([(1, label, *box, 0.9)]))
    assert VERDICTS[verdicts.verdict[0]] == kind
    assert bool(verdicts.missed[0]) == (kind in ("both", "background"))


def test_a_second_detection_of_an_object_is_a_duplicate_whatever_their_order(tmp_path):
    verdicts = judge(truth_of(tmp_path / "a.json", [OBJECT]), found_of([(1, 0, 0, 0, 40, 38, 0.5),
                                                                        (1, 0, 0, 0, 40, 40, 0.9)]))
    assert [VERDICTS[v] for v in verdicts.verdict] == ["duplicate", "correct"]
    assert verdicts.about.tolist() == [0, 0] and verdicts.counts()["missed"] == 0


def test_what_lies_in_a_crowd_of_its_class_is_no_error_and_a_crowd_is_no_object(tmp_path):
    truth = truth_of(tmp_path / "a.json", [OBJECT, (1, 0, 50, 50, 50, 50)], crowds={2})
    verdicts = judge(truth, found_of([(1, 0, 60, 60, 20, 20, 0.9), (1, 1, 60, 60, 20, 20, 0.8)]))
    assert [VERDICTS[v] for v in verdicts.verdict] == ["ignored", "background"]
    assert verdicts.objects.tolist() == [0] and verdicts.missed.tolist() == [True]


def test_an_oracle_gains_what_a_wrong_name_costs(tmp_path):
    """Two objects of class a; one is called b with a higher score than b's own detection: AP of a 0.5, of b 0.5."""
    truth = truth_of(tmp_path / "a.json", [OBJECT, (1, 0, 50, 0, 40, 40), (1, 1, 0, 50, 40, 40)])
    found = found_of([(1, 0, 0, 0, 40, 40, 0.9), (1, 1, 50, 0, 40, 40, 0.8), (1, 1, 0, 50, 40, 40, 0.7)])
    costs = judge(truth, found).costs({"base": [0], "novel": [1], "none": [2]})
    assert costs["base"]["ap50"] == pytest.approx(100 * 51 / 101) and costs["novel"]["ap50"] == pytest.approx(50)
    assert costs["base"]["classification"] == pytest.approx(100 * 50 / 101)
    assert costs["novel"]["classification"] == pytest.approx(50)
    assert all(costs[group][kind] == pytest.approx(0) for group in ("base", "novel") for kind in ERRORS[1:])
    assert np.isnan(costs["none"]["ap50"])
    assert judge(truth, found).confusions(0.5) == {(0, 1): 1} and judge(truth, found).confusions(0.85) == {}


def random_case(seed, path, lvis: bool):
    rng = np.random.default_rng(seed)
    objects = [(image, int(rng.integers(4)), *(int(v) for v in rng.integers(0, 50, 2)),
                *(int(v) for v in rng.integers(10, 40, 2)))
               for image in range(1, 7) for _ in range(rng.integers(0, 5))]
    fields = {}
    for image in range(1, 7) if lvis else ():
        present = {label + 1 for other, label, *_ in objects if other == image}
        fields[image] = {
            "neg_category_ids": [c for c in range(1, 5) if c not in present and rng.random() < 0.5],
            "not_exhaustive_category_ids": [c for c in sorted(present) if rng.random() < 0.2]}
    rows = []
    for _ in range(60):
        image, label, x, y, width, height = objects[rng.integers(len(objects))]
        if rng.random() < 0.2:
            x, y = rng.uniform(0, 60, 2)
        shift = rng.normal(0, rng.choice([0.02, 0.2, 0.5]), 2) * (width, height)
        label = label if rng.random() < 0.6 else rng.integers(4)
        rows.append((image, label, x + shift[0], y + shift[1], width, height, rng.random()))
    return truth_of(path, objects, 6, lvis=fields), found_of(rows)


@pytest.mark.parametrize("lvis", [False, True])
def test_equals_hotcoco_on_random_images(tmp_path, lvis):
    for seed in range(20):
        truth, found = random_case(seed, tmp_path / f"{seed}.json", lvis)
        verdicts = judge(truth, found, "lvis" if lvis else "coco")
        table = np.column_stack([found.image_ids, found.boxes, found.scores, truth.category_ids[found.labels]])
        table[:, 3:5] -= table[:, 1:3]
        reference = COCOeval(truth.coco, truth.coco.load_res(table.astype(float)), "bbox", lvis_style=lvis)
        with contextlib.redirect_stdout(io.StringIO()):
            reference.evaluate()
            expected = reference.tide_errors()
        assert verdicts.counts() == {kind: expected["counts"][name] for kind, name in THEIRS.items()}, seed
        costs = verdicts.costs({"all": range(4)})["all"]
        assert costs["ap50"] == pytest.approx(100 * expected["ap_base"])
        for kind, name in THEIRS.items():
            assert costs[kind] == pytest.approx(100 * expected["delta_ap"][name], abs=1e-6), (seed, kind)


def slow_verdicts(objects, rows):
    """The definitions of section 2.2, one detection after another: kinds in order of ``rows``, and missed objects."""
    def iou(a, b):
        width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        inter = max(0.0, width) * max(0.0, height)
        return inter / (a[2] * a[3] + b[2] * b[3] - inter)

    kinds, taken = {}, set()
    order = sorted(range(len(rows)), key=lambda i: -rows[i][6])
    for i in order:
        candidates = [(iou(rows[i][2:6], o[2:]), g) for g, o in enumerate(objects)
                      if g not in taken and o[:2] == rows[i][:2]]
        best = max(candidates, default=(0, -1))
        if best[0] >= 0.5:
            kinds[i] = "correct"
            taken.add(best[1])
    saved = set()
    for i in order:
        if i in kinds:
            continue
        overlaps = {g: iou(rows[i][2:6], o[2:]) for g, o in enumerate(objects) if o[0] == rows[i][0]}
        same = {g: v for g, v in overlaps.items() if objects[g][1] == rows[i][1]}
        other = {g: v for g, v in overlaps.items() if g not in same}
        if same and 0.1 <= max(same.values()) <= 0.5:
            kinds[i] = "localisation"
            saved.add(max(same, key=same.get))
        elif other and max(other.values()) >= 0.5:
            kinds[i] = "classification"
            saved.add(max(other, key=other.get))
        elif any(v >= 0.5 and g in taken for g, v in same.items()):
            kinds[i] = "duplicate"
        elif max(overlaps.values(), default=0) <= 0.1:
            kinds[i] = "background"
        else:
            kinds[i] = "both"
    return [kinds[i] for i in range(len(rows))], [g not in taken | saved for g in range(len(objects))]


def test_equals_a_plain_version_written_from_the_paper(tmp_path):
    for seed in range(20, 30):
        truth, found = random_case(seed, tmp_path / f"{seed}.json", False)
        records = sorted(truth.coco.anns.values(), key=lambda r: (r["image_id"], r["id"]))
        objects = [(r["image_id"], r["category_id"] - 1, *r["bbox"]) for r in records]
        sizes = found.boxes[:, 2:] - found.boxes[:, :2]
        rows = [(int(i), int(label), *box[:2], *size, score) for i, label, box, size, score in
                zip(found.image_ids, found.labels, found.boxes, sizes, found.scores)]
        kinds, missed = slow_verdicts(objects, rows)
        verdicts = judge(truth, found)
        assert [VERDICTS[v] for v in verdicts.verdict] == kinds
        assert verdicts.missed.tolist() == missed


def test_no_detections_at_all(tmp_path):
    verdicts = judge(truth_of(tmp_path / "a.json", [OBJECT]), found_of([]))
    assert verdicts.counts() == {**dict.fromkeys(ERRORS, 0), "missed": 1}
    assert verdicts.costs({"all": range(4)})["all"]["ap50"] == 0
