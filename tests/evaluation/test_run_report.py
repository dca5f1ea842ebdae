"""The page of one run and of several: figures, pictures, tables that sort, nothing from elsewhere."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny_world import write_caches, write_world

from ovd.data.annotations import load_annotations
from ovd.errors import UserError
from ovd.evaluation.charts import Dots, Line, line_chart, scatter
from ovd.evaluation.projection import project
from ovd.evaluation.run_page import render_runs
from ovd.evaluation.run_report import gather
from ovd.evaluation.run_results import RunResults
from ovd.evaluation.runs import read_run
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions, RegionStore
from pipelines.report import write_report

BASE, NOVEL = ["red circle", "red square", "blue <circle>"], ["blue square", "green circle"]
CONFIG = """
data_root = '{data}'
split = 'annotations/split.json'
val_ann = 'annotations/val.json'
train_ann = 'annotations/train.json'
class_head = 'head.safetensors'
region_store = 'regions_at_objects'
model = dict(type='ovd.models.ViLD', roi_head=dict(), rpn_head=dict())
train_cfg = dict(max_iters=20)
train_dataloader = dict(batch_size=2)
test_dataloader = dict(dataset=dict(data_prefix=dict(img='val')))
test_evaluator = dict(ann_file='annotations/val.json', split='annotations/split.json', data_root='{data}')
"""


def write_regions(data):
    """A region store over the training images whose regions are the annotated boxes, each near its class's vector."""
    annotations = load_annotations(data / "annotations/train.json")
    vectors = ClassHead.load(data / "head.safetensors").weights[:, 0].numpy()
    writer = RegionStore.create(data / "regions_at_objects", "regions", [i.id for i in annotations.images], 50, dim=8)
    contents = {}
    for image_id, found in annotations.by_image().items():
        boxes = np.array([a.bbox for a in found], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        rows = vectors[[a.category_id for a in found]].astype(np.float16)
        contents[image_id] = Regions(boxes, np.ones(len(found), np.float32), rows)
    writer.write(0, contents)
    writer.finish("embed-regions", {}, {})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two runs: ``right`` finds everything, ``wrong`` takes everything for a red circle and misses one image."""
    root = tmp_path_factory.mktemp("runs")
    data = write_world(root / "data", BASE, NOVEL)
    write_caches(data)
    write_regions(data)
    found = load_annotations(data / "annotations/val.json").annotations
    last = max(a.image_id for a in found)
    for number, name in enumerate(("wrong", "right")):
        inside = root / name / "20300101_000000" / "vis_data"
        inside.mkdir(parents=True)
        (inside / "config.py").write_text(CONFIG.format(data=data))
        rows = [{"loss": 4.0 / step + number, "loss_cls": 1.0 / step, "lr": 1e-4, "time": 0.5, "step": step}
                for step in range(1, 21)]
        (inside / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / name / "detections.json").write_text(json.dumps(
            [{"image_id": a.image_id, "category_id": a.category_id if number else 0, "bbox": a.bbox, "score": 0.9,
              "segmentation": None} for a in found if number or a.image_id != last]))
        (root / name / "metrics.json").write_text(json.dumps(
            {f"{group}/{figure}": 40.0 * number + 10 for group in ("base", "novel", "all") for figure in ("ap", "ap50")}
            | {"all/ap_large": None}))
    return root


class Page(HTMLParser):
    """What a page refers to, and the cells of its tables; fails on tags that do not match."""

    VOID = ("meta", "img", "br", "line", "polyline", "circle")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.sources, self.cells = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")
        self.sources += [value for key, value in attrs if key in ("src", "href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and "td" in self.open:
            self.cells[-1] += data


def test_figures_of_classes_and_the_worst_image(world):
    right, wrong = (RunResults.of(read_run(world / name)) for name in ("right", "wrong"))
    assert all(row.ap50 == pytest.approx(100) for row in right.class_rows() if row.objects)
    by_name = {row.name: row for row in wrong.class_rows()}
    assert by_name["green circle"].ap50 == 0 and by_name["green circle"].group == "novel"
    assert by_name["green circle"].taken_for[0] == "red circle"
    assert wrong.threshold < 0.9 and all(row.wrong == 0 for row in right.ranked_images())
    worst = wrong.ranked_images()[0]
    assert worst.score == 0 and worst.correct == 0
    assert right.curves("all").tolist() == [1.0] * 101
    picture = wrong.picture(worst.image_id)
    assert list(picture) == ["ground truth", "detections"] and picture["detections"].shape[0] >= 380


def test_a_run_without_detections_has_no_results(world, tmp_path):
    shutil.copytree(world / "right", tmp_path / "run")
    (tmp_path / "run" / "detections.json").unlink()
    assert RunResults.of(read_run(tmp_path / "run")) is None
    html = render_runs(gather([tmp_path / "run"]))
    assert "What is not here yet" in html and "--out" in html
    assert 'id="figures"' in html and 'id="training"' in html and 'id="errors"' not in html


def test_the_page_of_a_run_has_everything_and_nothing_from_elsewhere(world):
    html = render_runs(gather([world / "wrong"], scenes=2))
    page = Page(html)
    assert page.sources and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "http" not in re.sub(r"data:image/\w+;base64,[^\"]*", "", html)
    for section in ("figures", "training", "precision-and-recall", "errors", "classes", "pictures",
                    "classes-and-regions-on-a-plane", "time-and-memory", "settings"):
        assert f'<section id="{section}">' in html, section
    assert "blue &lt;circle&gt;" in html and "blue <circle>" not in html
    assert any(cell.startswith("red circle (") for cell in page.cells)
    assert html.count("<script>") == 1


def test_several_runs_stand_side_by_side_with_their_differences(world):
    report = gather([world / "wrong", world / "right"], scenes=2)
    assert [exhibit.title for exhibit in report.exhibits] == ["wrong", "right"]
    html = render_runs(report)
    page = Page(html)
    assert "50.0 +40.0" in page.cells  # AP50 of the second run, and its change from the first
    assert "Where right is better than wrong" in report.scenes
    assert "Where right is worse than wrong" not in report.scenes
    assert list(report.scenes["Where right is better than wrong"][0].panels) == ["ground truth", "wrong", "right"]
    assert re.search(r"<tr[^>]*><td>green circle</td>.*?<td class=\"up\">\+100\.0</td>", html)
    assert html.count('class="line c1"') >= 2  # the second run's curves
    assert '<tr class="differs">' not in html or "time" in html
    again = render_runs(gather([world / "wrong", world / "right"], scenes=2))
    assert again == html


def test_the_page_of_a_recipe_has_what_its_runs_say(world, tmp_path):
    data = world / "data"
    methods = [{"name": name, "title": f"Method {name}", "metrics": str(world / name / "metrics.json"),
                "detections": str(world / name / "detections.json")} for name in ("wrong", "right")]
    plan = {"title": "A recipe", "methods": methods, "annotations": str(data / "annotations/val.json"),
            "images": str(data / "val"), "split": str(data / "annotations/split.json"), "scenes": 1}
    stage = {"key": "", "status": "done", "intervals": [[1, 3]]}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "r", "seed": 0, "report": plan, "stages": {"a": stage}}))
    write_report(tmp_path, pictures=1)
    html = (tmp_path / "report.html").read_text()
    Page(html)
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert {"Training", "Precision and recall", "Errors", "Classes", "Pictures", "Stages"} <= set(headings)
    assert headings.count("Classes") == headings.count("Figures") == 1
    assert html.count("<script>") == 1 and "AP Method right" in html
    assert (tmp_path / "report.json").exists() and (tmp_path / "picture.png").exists()
    write_report(tmp_path, tmp_path / "other.html", pictures=0)
    assert "Where Method right" in html and "Where Method right" not in (tmp_path / "other.html").read_text()


def test_a_broken_file_is_named_and_the_rest_is_shown(world, tmp_path):
    shutil.copytree(world / "right", tmp_path / "run")
    (tmp_path / "run" / "detections.json").write_text('[{"image_id"')
    report = gather([tmp_path / "run"])
    assert "detections.json is cut or no json" in report.exhibits[0].problems[0]
    assert "detections.json is cut or no json" in render_runs(report)


def test_what_files_say_is_text_on_the_page(tmp_path):
    said = "<img src=x>"
    data = write_world(tmp_path / "data", BASE, NOVEL, frequencies=dict.fromkeys(BASE + NOVEL, said))
    found = load_annotations(data / "annotations/val.json").annotations
    inside = tmp_path / "run" / "20300101_000000" / "vis_data"
    inside.mkdir(parents=True)
    (inside / "config.py").write_text(CONFIG.format(data=data))
    (tmp_path / "run/detections.json").write_text(json.dumps(
        [{"image_id": a.image_id, "category_id": a.category_id, "bbox": a.bbox, "score": 0.9} for a in found]))
    (tmp_path / "run/results.jsonl").write_text(json.dumps({"kind": said, "iteration": said, "boxAP": 1.0}) + "\n")
    (tmp_path / "run/fewshot.json").write_text(json.dumps({"rows": [{"name": said, "shots": said}]}))
    html = render_runs(gather([tmp_path / "run"], scenes=0))
    assert said not in html and html.count("&lt;img src=x&gt;") == len(BASE + NOVEL) + 4


def test_lvis_has_rare_common_and_frequent_classes_and_leaves_out_what_was_not_looked_for(tmp_path):
    names = BASE + NOVEL
    data = write_world(tmp_path / "data", BASE, NOVEL, frequencies=dict(zip(names, "ffcrr")))
    path = data / "annotations/val.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["neg_category_ids"] = []  # of no class is it known that an image has none
    path.write_text(json.dumps(content))
    inside = tmp_path / "run" / "20300101_000000" / "vis_data"
    inside.mkdir(parents=True)
    evaluator = "protocol='lvis', ann_file='annotations/val.json'"
    (inside / "config.py").write_text(CONFIG.format(data=data).replace("ann_file='annotations/val.json'", evaluator))
    absent = [{"image_id": image["id"], "category_id": c, "bbox": [1, 1, 9, 9], "score": 0.9}
              for image in content["images"] for c in range(5)
              if not any(a["image_id"] == image["id"] and a["category_id"] == c for a in content["annotations"])]
    right = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.8}
             for a in content["annotations"]]
    (tmp_path / "run" / "detections.json").write_text(json.dumps(absent + right))
    report = gather([tmp_path / "run"], scenes=1)
    results = report.exhibits[0].results
    assert [row.frequency for row in sorted(results.class_rows(), key=lambda row: names.index(row.name))] == [*"ffcrr"]
    assert {"rare", "common", "frequent"} <= set(results.costs())
    assert all(row.wrong == 0 for row in results.ranked_images())
    html = render_runs(report)
    assert "r / c / f" in html and 'aria-label="rare"' in html


def test_folders_that_cannot_be_compared_are_refused(world, tmp_path):
    with pytest.raises(UserError, match="named twice"):
        gather([world / "right", world / "right"])
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "r", "seed": 0, "stages": {}}))
    with pytest.raises(UserError, match="compare"):
        gather([world / "right", tmp_path])


def test_the_plane_has_every_class_and_regions_near_their_objects(world):
    found = project(read_run(world / "right"))
    assert len(found.classes) == len(BASE + NOVEL) and found.groups == ["base"] * 3 + ["novel"] * 2
    assert len(found.regions) == len(found.labels) > 0 and set(found.labels.tolist()) <= {0, 1, 2}
    assert 0 < found.explained <= 1 and found.nearest == 1
    assert abs(found.classes).max() <= 2  # of unit vectors


def test_charts_keep_their_limits_and_escape_what_they_say():
    svg = line_chart("a < b", [Line("one", [0, 1, 2], [0.0, 5.0, 20.0]), Line("two", [1], [3.0], 1)], limits=(0, 10))
    points = re.search(r'points="([^"]*)"', svg).group(1).split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[0] > heights[1] > heights[2] >= 0  # 20 is drawn at the upper limit
    assert "a &lt; b" in svg and "<circle" in svg
    long = line_chart("long", [Line("many", range(5000), np.ones(5000))])
    assert len(re.search(r'points="([^"]*)"', long).group(1).split()) <= 300
    dots = scatter("plane", [Dots(np.array([[0.0, 0.0], [1.0, 1.0]]), ["x", "<y>"], hollow=True)], [(0, 0, "x")])
    assert dots.count("<circle") == 2 and "&lt;y&gt;" in dots


def test_a_click_sorts_the_classes_and_words_filter_them(world, tmp_path):
    """In a real browser, where there is one."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api")
    if browser is None:
        pytest.skip("needs chromium")
    page_file = tmp_path / "page.html"
    page_file.write_text(render_runs(gather([world / "wrong"], scenes=0)))
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 400, "height": 800})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        table = page.locator("#classes table.sortable")
        headings = table.locator("th button")
        headings.filter(has_text="AP50").click(timeout=5000)
        assert table.locator("th[aria-sort=descending]").count() == 1
        first = table.locator("tbody tr").first.locator("td").first
        assert first.inner_text() == "red circle"
        headings.first.click(timeout=5000)
        assert first.inner_text() == "red square"
        headings.first.click(timeout=5000)
        assert first.inner_text() == "blue <circle>"
        assert page.evaluate("document.documentElement.scrollWidth") <= 400  # nothing makes a phone scroll sideways
        assert errors == []
        chromium.close()
