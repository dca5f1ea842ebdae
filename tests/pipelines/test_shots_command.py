"""The command line of shots: what is asked for in which way, what is written, and what is refused."""

import json
import subprocess
import sys

import pytest
from annotated_world import NAMES, draw_images, make_records
from PIL import Image

from ovd.data.annotations import load_annotations
from ovd.errors import UserError
from ovd.fewshot.shots import ShotSet
from ovd.stores.manifest import Manifest
from pipelines.cli import run_stage
from pipelines.shots.sampling import wanted_shots

SPLIT = {"base": ["red", "green"], "novel": ["blue"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two folders of images, each with its annotation file whose ids are the other's too; a split; boxes in a csv."""
    root = tmp_path_factory.mktemp("world")
    for number, name in enumerate(("a", "b")):
        contents = make_records(8, seed=number)
        draw_images(root / name, contents, seed=number)
        (root / f"{name}.json").write_text(json.dumps(contents))
    (root / "split.json").write_text(json.dumps(SPLIT))
    (root / "boxes.csv").write_text("image,x1,y1,x2,y2,class\n0005.png,1,2,30,31,gadget\n0008.png,1,2,30,31,gadget\n")
    return root


def sample(world, out, *options: str) -> int:
    return run_stage("shots", ["sample", "--annotations", str(world / "a.json"), "--image-root",
                               str(world / "a" / "train"), "--out", str(out), *options])


def sizes(path) -> dict[str, int]:
    return {name: len(shots) for name, shots in ShotSet.load(path).classes.items()}


def test_a_file_of_shots_from_drawing_to_fine_tuning(world, tmp_path, capsys):
    def ovd(*words) -> str:
        if words[0] == "sample":  # the command line itself
            done = subprocess.run([sys.executable, "-m", "pipelines.cli", "shots", *map(str, words)], text=True,
                                  capture_output=True)
            assert done.returncode == 0, done.stderr
            return done.stdout
        assert run_stage("shots", [str(word) for word in words]) == 0
        return capsys.readouterr().out

    both = [word for name in "ab" for word in ("--annotations", world / f"{name}.json", "--image-root",
                                               world / name / "train")]
    said = ovd("sample", *both, "--split", world / "split.json", "--shots", 4, "--out", tmp_path / "shots.json")
    assert "3 classes, 4 shots of each, 12 boxes" in said
    said = ovd("show", tmp_path / "shots.json", *both, "--show-dir", tmp_path / "sheets", "--classes", "blue", "red")
    assert "they fit the annotations and the images" in said and "blue  " in said and "green" not in said
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {"blue.png", "red.png"}
    assert Image.open(tmp_path / "sheets/red.png").width > 500
    said = ovd("annotations", tmp_path / "shots.json", "--split", world / "split.json", "--out", tmp_path / "few.json")
    few, shots = load_annotations(tmp_path / "few.json"), ShotSet.load(tmp_path / "shots.json")
    assert [(c.id, c.name) for c in few.categories] == [(0, "red"), (1, "green"), (2, "blue")]
    assert len(few.annotations) == 12 and {i.file_name.split("/")[0] for i in few.images} == {"a", "b"}
    assert Manifest.read(tmp_path / "few.json").counts["annotations"] == 12 and shots.hash[:15] in said


def test_how_many_of_which_class(world, tmp_path, capsys):
    out = tmp_path / "shots.json"
    asked = {
        ("--shots", "2"): dict.fromkeys(NAMES, 2),
        ("--shots", "2", "--classes", "blue", "red"): {"blue": 2, "red": 2},
        ("--shots", "2", "--shots-of", "red=1", "--shots-of", "blue=0"): {"red": 1, "green": 2, "yellow": 2},
        ("--shots-of", "yellow=3"): {"yellow": 3},
        ("--shots", "1", "--split", str(world / "split.json")): {"red": 1, "green": 1, "blue": 1},
        ("--num-novel-shots", "3", "--split", str(world / "split.json")): {"blue": 3},
        ("--num-novel-shots", "1", "--num-base-shots", "2", "--shots-of", "green=4", "--split",
         str(world / "split.json")): {"red": 2, "green": 4, "blue": 1},
        ("--classes", "blue", "--shots", "80", "--with-replacement"): {"blue": 80},
    }
    for options, wanted in asked.items():
        assert sample(world, out, "--overwrite", *options) == 0, options
        assert sizes(out) == wanted, options
    assert "note: 1 class has fewer boxes than shots, so some are repeated: blue (" in capsys.readouterr().out


def test_the_same_command_gives_the_same_bytes_and_is_skipped(world, tmp_path, capsys):
    out = tmp_path / "shots.json"
    assert sample(world, out, "--shots", "2") == 0
    first = out.read_bytes()
    assert sample(world, out, "--shots", "2") == 0 and "is up to date" in capsys.readouterr().out
    assert sample(world, out, "--shots", "2", "--overwrite") == 0 and out.read_bytes() == first
    assert sample(world, out, "--shots", "3") == 2
    assert "made with another configuration: shots was 2, now 3; pass --overwrite" in capsys.readouterr().err
    assert sample(world, tmp_path / "other.json", "--shots", "2", "--seed", "1") == 0
    assert ShotSet.load(tmp_path / "other.json").hash != ShotSet.load(out).hash


@pytest.mark.parametrize(("options", "words"), [
    ((), "not said how many shots are wanted"),
    (("--shots", "0"), "--shots 0: give one or more"),
    (("--shots", "99"), "a.json: class 'red': 99 shots were asked for, but there are"),
    (("--shots", "1", "--classes", "rde"), "have no class 'rde'; did you mean red"),
    (("--shots", "1", "--classes", "red", "red"), "class 'red' is asked for twice"),
    (("--shots", "1", "--shots-of", "red"), "--shots-of red: is not NAME=K"),
    (("--shots", "1", "--classes", "red", "--shots-of", "blue=2"), "--shots-of blue=2: that class is not among"),
    (("--shots-of", "red=0"), "no shots of any class"),
    (("--num-novel-shots", "1"), "which classes are novel is not said; give --split"),
    (("--num-base-shots", "1", "--split", "voc"), "split voc has no base classes"),
    (("--num-novel-shots", "1", "--shots", "1", "--split", "voc"), "--shots and --num-novel-shots"),
    (("--shots", "1", "--split", "60_21"), "no split named '60_21'; did you mean 60_20"),
    (("--shots", "1", "--image-root", "nowhere"), "--image-root nowhere: no such folder"),
    (("--shots", "1", "--min-size", "nan"), "--min-size nan: give pixels"),
    (("--shots", "1", "--min-size", "-1"), "a least size of -1 pixels"),
])
def test_mistakes_are_told_in_a_line(world, tmp_path, capsys, options, words):
    assert sample(world, tmp_path / "shots.json", *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "shots.json").exists()


def test_images_of_another_folder_are_noticed(world, tmp_path, capsys):
    assert run_stage("shots", ["sample", "--annotations", str(world / "a.json"), "--image-root", str(world), "--shots",
                               "1", "--out", str(tmp_path / "shots.json")]) == 2
    assert "no such image" in capsys.readouterr().err


def test_boxes_and_saved_shots_are_imported_and_merged(world, tmp_path, capsys):
    images, out = str(world / "a" / "train"), tmp_path / "all.json"
    assert sample(world, tmp_path / "shots.json", "--shots", "2", "--classes", "red") == 0
    assert run_stage("shots", ["import", str(tmp_path / "shots.json"), str(world / "boxes.csv"), "--image-root", images,
                               "--out", str(out)]) == 0
    assert sizes(out) == {"red": 2, "gadget": 2}
    one = tmp_path / "1.json"
    assert run_stage("shots", ["import", str(world / "boxes.csv"), "--shots", "1", "--out", str(one)]) == 0
    assert sizes(one) == {"gadget": 1}
    (world / "far.csv").write_text("image,x1,y1,x2,y2,class\n0005.png,50,2,70,31,gadget\n")
    assert run_stage("shots", ["import", str(world / "far.csv"), "--image-root", images, "--out", str(one),
                               "--overwrite"]) == 2
    assert "the box 50, 2, 70, 31 (x1, y1, x2, y2) is outside the image of 64 x 64" in capsys.readouterr().err


def test_lists_of_tfa_are_imported(world, tmp_path, capsys):
    folder = tmp_path / "benchmark_1shot"
    folder.mkdir()
    contents = json.loads((world / "a.json").read_text())
    files = {image["id"]: image["file_name"] for image in contents["images"]}
    red = next(a for a in contents["annotations"] if a["category_id"] == 1)
    (folder / "box_1shot_red_train.txt").write_text(f"x/{files[red['image_id']]}\n")
    words = ["import", str(folder), "--annotations", str(world / "a.json"), "--image-root", str(world / "a" / "train"),
             "--out", str(tmp_path / "shots.json")]
    assert run_stage("shots", words) == 0
    assert ShotSet.load(tmp_path / "shots.json")["red"][0].image_id == red["image_id"]
    assert run_stage("shots", [*words, "--classes", "red", "blue", "--overwrite"]) == 2
    assert "the class 'blue' has no list of 1 shots, box_1shot_blue_train.txt" in capsys.readouterr().err
    assert run_stage("shots", ["import", str(world / "boxes.csv"), "--annotations", str(world / "a.json"), "--out",
                               str(tmp_path / "2.json")]) == 2
    assert "goes with TFA's lists" in capsys.readouterr().err


def test_shots_of_annotations_that_changed_are_noticed(world, tmp_path, capsys):
    assert sample(world, tmp_path / "shots.json", "--shots", "1") == 0
    assert run_stage("shots", ["show", str(tmp_path / "shots.json"), "--annotations", str(world / "b.json")]) == 2
    assert "choose them again with ovd shots sample" in capsys.readouterr().err
    assert run_stage("shots", ["show", str(tmp_path / "shots.json"), "--show-dir", str(tmp_path)]) == 2
    assert "give their folder with --image-root" in capsys.readouterr().err


def test_a_class_that_the_split_lacks_is_named(world, tmp_path, capsys):
    assert sample(world, tmp_path / "shots.json", "--shots", "1") == 0
    assert run_stage("shots", ["annotations", str(tmp_path / "shots.json"), "--split", str(world / "split.json"),
                               "--out", str(tmp_path / "few.json")]) == 2
    assert "shots.json: split split has no class 'yellow'" in capsys.readouterr().err


def test_classes_of_a_split_keep_its_order(world):
    from ovd.vocabulary.splits import get_split

    records = load_annotations(world / "a.json")
    split = get_split(world / "split.json")
    assert list(wanted_shots(records, None, split, None, {}, 1, 2).items()) == [("red", 1), ("green", 1), ("blue", 2)]
    with pytest.raises(UserError, match="no shots of any class"):
        wanted_shots(records, None, split, None, {}, 0, None)
