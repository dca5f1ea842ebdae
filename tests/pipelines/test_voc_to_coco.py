"""PASCAL VOC's XML to COCO's json: boxes, ids, difficult objects, mistakes; and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.data.annotations import load_annotations
from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.vocabulary.classes import VOC_NAMES
from pipelines.cli import run_stage
from pipelines.voc_to_coco import convert

WIDTH, HEIGHT = 40, 30


def xml(objects: list[tuple], size: str = f"<width>{WIDTH}</width><height>{HEIGHT}</height>", filename="") -> str:
    """An annotation file; an object is (name, xmin, ymin, xmax, ymax, difficult or None)."""
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose>"
        + ("" if difficult is None else f"<difficult>{difficult}</difficult>")
        + f"<bndbox><ymin>{y1}</ymin><xmin>{x1}</xmin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>"
        for name, x1, y1, x2, y2, difficult in objects)
    return f"<annotation>{filename}<size>{size}<depth>3</depth></size>{body}</annotation>"


def devkit(root: Path, files: dict[str, str], year: str = "2007", subset: str = "test") -> Path:
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / f"{subset}.txt").write_text("\n".join(files) + "\n")
    return root / "VOCdevkit"


def objects(max_size: int = 5):
    span = lambda side: st.tuples(st.integers(1, side), st.integers(1, side)).map(sorted)  # noqa: E731
    return st.lists(st.builds(lambda name, x, y, difficult: (name, x[0], y[0], x[1], y[1], difficult),
                              st.sampled_from(VOC_NAMES), span(WIDTH), span(HEIGHT), st.sampled_from([None, 0, 1])),
                    max_size=max_size)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(1, 9962).map("{:06d}".format), objects(), min_size=1, max_size=4))
def test_every_pixel_of_a_voc_box_is_in_its_coco_box(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("voc")
    kit = devkit(root, {name: xml(content) for name, content in files.items()})
    convert(kit, ["2007_test"], root / "out.json")
    loaded = load_annotations(root / "out.json")
    assert [(image.id, image.file_name) for image in loaded.images] == \
        [(int(name), f"VOC2007/JPEGImages/{name}.jpg") for name in files]
    found = loaded.by_image()
    for name, content in files.items():
        for record, (class_name, x1, y1, x2, y2, difficult) in zip(found[int(name)], content, strict=True):
            x, y, width, height = record.bbox
            inside = [column for column in range(WIDTH) if x <= column and column + 1 <= x + width]
            assert inside == list(range(x1 - 1, x2)) and (y, height) == (y1 - 1, y2 - y1 + 1)
            assert record.area == width * height
            assert loaded.categories[record.category_id - 1].name == class_name
            assert record.iscrowd == (difficult or 0)


def test_two_years_become_one_file_and_it_is_made_once(tmp_path, capsys):
    devkit(tmp_path, {"000005": xml([("dog", 1, 1, 5, 5, 0)])}, "2007", "trainval")
    kit = devkit(tmp_path, {"2008_000005": xml([("cat", 1.5, 2, 5, 5, 1)], filename="<filename>x.jpg</filename>")},
                 "2012", "trainval")
    command = ["--devkit", str(kit), "--sets", "2007_trainval", "2012_trainval"]
    assert run_stage("voc-to-coco", command) == 0
    target = tmp_path / "annotations" / "voc2007_trainval_2012_trainval.json"
    written = json.loads(target.read_bytes())
    assert [image["id"] for image in written["images"]] == [5, 2008000005]
    assert written["images"][1]["file_name"] == "VOC2012/JPEGImages/x.jpg"
    assert written["annotations"][1]["bbox"] == [0.5, 1.0, 4.5, 4.0]
    assert Manifest.read(target).counts == {"images": 2, "annotations": 2, "categories": 20, "difficult": 1}
    before = target.stat().st_mtime_ns
    assert run_stage("voc-to-coco", command) == 0
    assert target.stat().st_mtime_ns == before and "up to date" in capsys.readouterr().out
    (kit / "VOC2007/Annotations/000005.xml").write_text(xml([]))
    assert run_stage("voc-to-coco", command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run_stage("voc-to-coco", [*command, "--overwrite"]) == 0
    assert len(json.loads(target.read_bytes())["annotations"]) == 1


@pytest.mark.parametrize(("content", "message"), [
    ("<annotation><size>", "000001.xml: not valid XML"),
    (xml([("dogs", 1, 1, 5, 5, 0)]), "000001.xml: 'dogs' is not a class of VOC.*dog"),
    (xml([("dog", 9, 1, 5, 5, 0)]), "000001.xml: a dog has an inverted box"),
    (xml([("dog", "x", 1, 5, 5, 0)]), "000001.xml: bndbox/xmin of object must be a number, not 'x'"),
    (xml([], size="<width>9</width>"), "000001.xml: size/height of annotation must be a number, not None"),
    (xml([("dog", 100, 1, 105, 5, 0)]), r"annotations\[0\] .*outside its image"),
])
def test_mistakes_name_the_file(tmp_path, content, message):
    kit = devkit(tmp_path, {"000001": content})
    with pytest.raises(UserError, match=message):
        convert(kit, ["2007_test"], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_missing_lists_and_files_are_named(tmp_path):
    kit = devkit(tmp_path, {"000001": xml([]), "000002": xml([])})
    with pytest.raises(UserError, match=r"tets.txt: no such list of images.*2007_test"):
        convert(kit, ["2007_tets"], tmp_path / "out.json")
    with pytest.raises(UserError, match=r"000001 is listed twice"):
        convert(kit, ["2007_test", "2007_test"], tmp_path / "out.json")
    (kit / "VOC2007/Annotations/000002.xml").unlink()
    with pytest.raises(UserError, match=r"000002.xml: no such file"):
        convert(kit, ["2007_test"], tmp_path / "out.json")


def test_a_name_that_is_no_number_is_refused(tmp_path):
    kit = devkit(tmp_path, {"holiday": xml([])})
    with pytest.raises(UserError, match="named by numbers"):
        convert(kit, ["2007_test"], tmp_path / "out.json")


def test_command_line(tmp_path):
    kit = devkit(tmp_path, {"000001": xml([("tvmonitor", 1, 1, 5, 5, 0), ("person", 2, 2, 9, 9, 1)])})
    script = Path(__file__).resolve().parents[2] / "tools" / "voc_to_coco.py"
    command = [sys.executable, str(script), "--devkit", str(kit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "voc2007_test.json: 1 images, 2 objects, 1 of them difficult" in done.stdout
    wrong = subprocess.run([*command, "--sets", "2008_test"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
