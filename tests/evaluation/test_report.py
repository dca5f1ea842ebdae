"""The report: figures by group, pictures, the page; from made-up results on a tiny dataset."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_world import write_world

from ovd.data.annotations import load_annotations
from ovd.errors import UserError
from ovd.evaluation.comparison import PLAIN, RIGHT, WRONG, Instances, clearest, draw_comparison, found_objects, montage
from ovd.evaluation.exhibits import Exhibits, decode_masks
from ovd.evaluation.report import ClassRow, Page, Scene, Timeline, text_table
from ovd.evaluation.report_page import render_page
from ovd.stores.manifest import Manifest
from ovd.stores.shards import Regions, RegionStore
from ovd.vocabulary.splits import get_split
from pipelines.report import by_group, timelines, write_report
from pipelines.running.journal import Journal, StageRecord

BASE, NOVEL = ["red circle", "red square", "blue circle"], ["blue square", "green circle"]
METRICS = {f"{group}/{name}": 10.0 * i + j for i, group in enumerate(("base", "novel", "all"), 1)
           for j, name in enumerate(("ap", "ap50", "mask_ap50", "top1_ap50", "accuracy"))}


@pytest.fixture
def world(tmp_path):
    """Ground truth, detections of a method that is always right and of one that takes all for a red circle."""
    root = write_world(tmp_path / "data", BASE, NOVEL)
    annotations = load_annotations(root / "annotations" / "val.json")
    for name, label in (("right", None), ("wrong", 0)):
        rows = [dict(image_id=a.image_id, category_id=a.category_id if label is None else label, bbox=a.bbox,
                     score=0.9 - 0.01 * i) for i, a in enumerate(annotations.annotations)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | {"novel/accuracy": None}))
    (tmp_path / "zero.json").write_text(json.dumps({"base": 97.0, "novel": 98.0}))
    return tmp_path


def exhibits(world: Path, *names: str) -> Exhibits:
    return Exhibits(world / "data/annotations/val.json", world / "data/val",
                    get_split(world / "data/annotations/split.json"), {name: world / f"{name}.json" for name in names})


def run_of(world: Path, **report) -> Path:
    """A work directory with the journal of a finished run."""
    methods = [dict(name="a", title="Method A", metrics=str(world / "metrics.json"),
                    detections=str(world / "wrong.json")),
               dict(name="b", title="Method B", metrics=str(world / "metrics.json"),
                    detections=str(world / "right.json"))]
    report = dict(title="A <title>", methods=methods, annotations=str(world / "data/annotations/val.json"),
                  images=str(world / "data/val"), split=str(world / "data/annotations/split.json"),
                  clip_zero_shot=str(world / "zero.json"), scenes=3) | report
    output = world / "output.bin"
    output.write_bytes(b"x")
    Manifest("checkpoint", "train", flags={"untrained": True}).write(output)
    stages = {"scenes": StageRecord("k", "done", [(100.0, 110.0)], 50.0, {str(output): "x"}, ["shapes", "--seed", "1"]),
              "train": StageRecord("k", "done", [(110.0, 130.0), (500.0, 520.0)], 900.0, {}, ["train", "c.py"])}
    work_dir = world / "run"
    Journal("demo", 1, stages, {"cores": 2, "processor": "P", "torch": "2.11"}, "0.1", report).save(work_dir)
    return work_dir


class Checker(HTMLParser):
    """Collects what a page refers to, and fails on tags that do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_has_the_figures_pictures_and_nothing_from_elsewhere(world, capsys):
    work_dir = run_of(world)
    page = write_report(work_dir)
    report = json.loads((work_dir / "report.json").read_text())
    assert set(report["metrics"]) == {"a", "b"}
    assert report["metrics"]["a"]["base"] == {"ap50": 11.0, "mask_ap50": 12.0, "top1_ap50": 13.0, "accuracy": 14.0}
    assert report["metrics"]["b"]["novel"]["accuracy"] is None
    assert report["clip_zero_shot"] == {"base": 97.0, "novel": 98.0}
    assert report["stages"] == [
        {"name": "scenes", "seconds": 10.0, "peak_memory_mb": 50.0, "reused": False},
        {"name": "train", "seconds": 40.0, "peak_memory_mb": 900.0, "reused": False}]
    assert (report["total_seconds"], report["peak_memory_mb"], report["seed"]) == (50.0, 900.0, 1)

    html = (work_dir / "report.html").read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert len(checker.sources) == 3 * 3 and all(s.startswith("data:image/jpeg;base64,") for s in checker.sources)
    assert "http" not in re.sub(r"data:image/\w+;base64,[^\"]*", "", html) and "<script" not in html
    assert "A &lt;title&gt;" in html and "Method B" in html and "checkpoint, untrained" in html
    assert len(html) < 1e6
    with Image.open(work_dir / "picture.png") as picture:
        assert picture.width > 3 * 300
    assert page.classes[0].group == "base"


def test_the_same_run_gives_the_same_bytes(world):
    work_dir = run_of(world)
    names = ("report.json", "report.html", "picture.png")
    write_report(work_dir)
    first = [(work_dir / name).read_bytes() for name in names]
    write_report(work_dir)
    assert [(work_dir / name).read_bytes() for name in names] == first


def test_a_report_of_figures_alone(world):
    work_dir = run_of(world, annotations="", clip_zero_shot="")
    page = write_report(work_dir)
    assert page.scenes == [] and page.recall == {}
    assert "<img" not in (work_dir / "report.html").read_text()
    assert not (work_dir / "picture.png").exists()


@pytest.mark.parametrize(("report", "message"), [
    ({"methods": []}, "methods must have at least one"),
    ({"methods": [dict(name="a", title="A", metrcs="x")]}, "metrcs|metrics"),
    ({"clip_zero_shot": "nowhere.json"}, "nowhere.json: no such file; run the recipe"),
    ({"split": ""}, "annotations need a split"),
    ({"sceens": 3}, "sceens"),
])
def test_what_is_wrong_with_a_report_is_said(world, report, message):
    with pytest.raises(UserError, match=message):
        write_report(run_of(world, **report))


def test_figures_of_random_weights_are_marked(world):
    (world / "metrics.json").write_text(json.dumps({"untrained": True, **METRICS}))
    work_dir = run_of(world)
    write_report(work_dir)
    assert "Method A and Method B learned from random weights" in (work_dir / "report.html").read_text()


def test_metrics_of_something_else_are_refused():
    with pytest.raises(UserError, match=r"m\.json: has no figures"):
        by_group({"loss": 3.0}, "m.json")


def test_no_run_no_report(tmp_path):
    with pytest.raises(UserError, match=r"run\.json: no such file; give the work directory"):
        write_report(tmp_path)


def test_timelines_leave_out_the_time_in_which_nothing_ran():
    journal = Journal("r", 0, {"a": StageRecord("k", "done", [(100, 110)]),
                               "b": StageRecord("k", "done", [(105, 125), (1000, 1010)]),
                               "c": StageRecord("k", "done", [(1010, 1020), (2000, 2001)])})
    spans = {line.name: line.spans for line in timelines(journal)}
    assert spans == {"a": [(0, 10)], "b": [(5, 25), (25, 35)], "c": [(35, 45), (45, 46)]}
    assert journal.total_seconds == 46
    assert timelines(Journal("r", 0)) == []


def page_of(**values) -> Page:
    metrics = {"one": {"base": {"ap50": 50.0, "accuracy": 60.0}, "novel": {"ap50": 5.25, "accuracy": None}},
               "two": {"base": {"ap50": 45.0, "accuracy": 61.0}, "odd_group": {"ap50": float("nan")}}}
    return Page("T", "I", {"one": "One", "two": "Method two"}, metrics, **values)


def test_the_text_table_has_a_row_per_group_and_aligned_columns():
    lines = text_table(page_of()).splitlines()
    assert [line.split()[0] for line in lines] == ["AP50", "classes", "base", "novel", "odd"]
    assert lines[1].split("  ")[0] == "classes" and lines[2].split() == ["base", "50.0", "45.0", "60.0", "61.0"]
    assert lines[3].split() == ["novel", "5.2", "-", "-", "-"]
    for column in ("50.0", "60.0"):  # right edges under the titles' right edges
        assert lines[2].index(column) + 4 in [m.end() for m in re.finditer("One", lines[1])]


def test_the_page_shows_missing_figures_as_such():
    html = render_page(page_of(ceiling={"base": 99.0}, classes=[ClassRow("a & b", "novel", 0, [float("nan"), 3.0])],
                               timelines=[Timeline("s", [(0, 3)], 10.0, reused=True)], total_seconds=63.0,
                               scenes=[Scene("c", {"truth": b"\x89PNG.."})]))
    Checker().feed(html)
    assert "nan" not in html.lower().replace("nano", "") and "None" not in html
    assert "a &amp; b" in html and "1 min 03 s" in html and "was there already" in html and "data:image/png" in html


def test_class_rows_tell_the_right_method_from_the_wrong_one(world):
    rows = exhibits(world, "wrong", "right").class_rows()
    assert [row.name for row in rows] == sorted(BASE) + sorted(NOVEL)
    assert all(row.ap50[1] == pytest.approx(100) for row in rows)
    assert all(row.ap50[0] == 0 for row in rows if row.name != BASE[0])
    assert sum(row.objects for row in rows) == 18


def test_scenes_are_those_with_the_most_novel_objects(world):
    shown = exhibits(world, "right")
    scenes, pictures = shown.scenes(2)
    novel = {i: sum(shown.labels[a.category_id] >= len(BASE) for a in found) for i, found in shown.objects.items()}
    best = sorted(novel, key=lambda i: (-novel[i], i))[:2]
    assert [scene.caption.split(":")[0] for scene in scenes] == [f"{i:06d}.png" for i in best]
    assert list(scenes[0].panels) == ["ground truth", "right"]
    assert pictures[0]["right"].shape == pictures[0]["ground truth"].shape
    assert f"{novel[best[0]]} of novel" in scenes[0].caption


def test_recall_of_a_store(world):
    shown = exhibits(world)
    writer = RegionStore.create(world / "store", "proposals", list(shown.images))
    for shard in writer.missing():
        writer.write(shard, {i: Regions(np.array([[x, y, x + w, y + h] for x, y, w, h in
                                                  (a.bbox for a in shown.objects[i])], np.float32),
                                        np.ones(len(shown.objects[i]), np.float32))
                             for i in writer.image_ids(shard)})
    writer.finish("proposals", {}, {}, {}, {}, 1.0, [])
    recall = shown.recall(world / "store", limits=(2, 3, 100))
    assert recall["base"]["AR@3"] == recall["novel"]["recall@3"] == pytest.approx(100)
    assert recall["all"]["recall@2"] == pytest.approx(100 * 2 / 3)
    assert "AR@100" not in recall["all"]  # no image has more than three


def test_detections_of_another_dataset_are_refused(world):
    (world / "other.json").write_text(json.dumps([dict(image_id=1, category_id=0, bbox=[0, 0, 1, 1], score=1)]))
    with pytest.raises(UserError, match=r"other\.json: a detection is of image 1"):
        exhibits(world, "other")
    (world / "cut.json").write_text('[{"image_id": 1')
    with pytest.raises(UserError, match=r"cut\.json: not COCO results"):
        exhibits(world, "cut")
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        exhibits(world, "none")


def test_a_missing_image_is_named(world):
    for file in (world / "data" / "val").glob("*.png"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"\.png: cannot read the image"):
        exhibits(world, "right").scenes(1)


def test_the_clearest_detections_are_one_at_a_place():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [40, 40, 50, 50]], float)
    found = Instances(boxes, np.arange(4), np.array([0.5, 0.9, 0.6, 0.1]))
    assert clearest(found, 0.2).tolist() == [1, 2]
    assert clearest(found, 0.0).tolist() == [1, 2, 3]
    assert clearest(found, 0.0, limit=1).tolist() == [1]
    assert clearest(found[np.array([], int)], 0.0).tolist() == []


def test_an_object_is_found_once_and_by_overlap():
    truth = Instances(np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float), np.array([0, 1]))
    found = Instances(np.array([[0, 0, 10, 9], [0, 0, 10, 10], [25, 0, 36, 10]], float),
                      np.array([0, 0, 1]), np.ones(3))
    assert found_objects(found, truth).tolist() == [0, -1, -1]
    assert found_objects(found, truth[np.array([], int)]).tolist() == [-1, -1, -1]


def test_colours_say_what_was_named_right():
    image = np.zeros((200, 200, 3), np.uint8)
    boxes = np.array([[10, 60, 60, 110], [100, 60, 150, 110]], float)
    masks = np.zeros((2, 200, 200), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[y1:y2, x1:x2] = True
    truth = Instances(boxes, np.array([0, 1]), masks=masks)  # 0 is base, 1 is novel
    names = ["base", "novel", "other"]

    def colours(labels):
        found = Instances(boxes, np.array(labels), np.array([0.9, 0.8]), masks)
        picture = draw_comparison(image, truth, {"m": found}, names, {1, 2})["m"]
        return {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0)}

    assert PLAIN in colours([0, 1]) and RIGHT in colours([0, 1]) and WRONG not in colours([0, 1])
    assert WRONG in colours([0, 0]) and RIGHT not in colours([0, 0])  # a novel object taken for a base class
    assert {RIGHT, WRONG} <= colours([2, 1]) and PLAIN not in colours([2, 1])  # a base object taken for a novel class
    assert truth.masks.sum() == 5000  # left as it was


def test_montage_puts_images_in_rows(tmp_path):
    rows = [{"a": np.full((50, 40, 3), value, np.uint8), "b": np.full((50, 40, 3), 255 - value, np.uint8)}
            for value in (10, 20)]
    page = montage(rows)
    assert page.shape[1] == 2 * 40 + 8
    assert page[-1, 0].tolist() == [20] * 3 and page[-1, -1].tolist() == [235] * 3


def test_masks_of_every_format():
    square = [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]]
    counts = [6, 2, 3, 2, 3, 2, 7]  # down the columns of a 5 x 5 image: 2 pixels in each of 3 columns
    polygon, run_lengths = decode_masks([square, {"size": [5, 5], "counts": counts}], (5, 5))
    assert polygon.sum() == 6 and np.array_equal(polygon, run_lengths)
