"""Few-shot classification as a command: pictures of a folder, a list, annotations and a region store."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from annotated_world import NAMES, draw_images, embed, make_records, write_annotations, write_store
from PIL import Image

from ovd.errors import UserError
from pipelines.cli import main
from pipelines.fewshot_classify import fewshot_classify, predict

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def photos(root, each=7):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + rng.integers(-25, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def settings(tmp_path, **others):
    return {"pretrained": "shapes", "cache": tmp_path / "cache", "way": 3, "shots": [2], "query": 3, "episodes": 20,
            "heads": ["prototype", "linear"], "device": "cpu", **others}


def test_the_command_on_a_folder_and_on_a_list(tmp_path, capsys):
    root = photos(tmp_path / "photos")
    clip = ["--pretrained", "shapes", "--cache", tmp_path / "cache", "--device", "cpu"]
    words = [*clip, "--way", 3, "--shot", 1, 2, "--query", 3, "--episodes", 20, "--heads", "prototype", "cosine"]
    command = ["fewshot-classify", root, *words, "--out", tmp_path / "folder.json"]
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1-shot" in done.stdout and "20 episodes of 3 classes from 3 classes, 21 objects" in done.stdout
    results = json.loads((tmp_path / "folder.json").read_text())
    assert [(row["method"], row["shot"]) for row in results["rows"]] == [
        ("prototype", 1), ("cosine", 1), ("prototype", 2), ("cosine", 2)]
    assert all(row["accuracy"] > 80 and row["interval"] < 10 for row in results["rows"]) and not results["smoke"]

    def ovd(*more):
        status = main(["fewshot-classify", *map(str, more)])
        return status, *capsys.readouterr()

    listed = [f"{file.relative_to(root)},{file.parent.name}\n" for file in sorted(root.rglob("*.png"))]
    (tmp_path / "list.csv").write_text("".join(listed))
    status, out, err = ovd(tmp_path / "list.csv", "--images", root, *words, "--smoke", "--out", tmp_path / "smoke.json")
    assert status == 0 and out.count("SMOKE") == 2
    assert "embedding" not in err, "the cache has these pictures, whatever names them"
    smoke = json.loads((tmp_path / "smoke.json").read_text())
    assert smoke["smoke"] and all(row["accuracy"] is None for row in smoke["rows"])
    status, _, err = ovd(root, *words, "--heads", "prototypes")
    assert status == 2 and "did you mean prototype" in err
    status, out, _ = ovd(root, *clip, "--predict", root / "blue" / "3.png", "--shot", 2, "--heads", "matching")
    assert status == 0 and "3.png: blue " in out


def test_the_same_again_is_up_to_date_and_other_pictures_are_not(tmp_path, capsys):
    root, out = photos(tmp_path / "photos"), tmp_path / "out.json"
    first = fewshot_classify([root], out=out, **settings(tmp_path))
    data = out.read_bytes()
    capsys.readouterr()
    assert fewshot_classify([root], out=out, **settings(tmp_path)) == first
    assert "up to date" in capsys.readouterr().out
    fewshot_classify([root], out=out, overwrite=True, **settings(tmp_path))
    assert out.read_bytes() == data
    (root / "red" / "0.png").unlink()
    with pytest.raises(UserError, match="pass --overwrite"):
        fewshot_classify([root], out=out, **settings(tmp_path))


def test_pictures_that_cannot_be_read_stop_or_are_left_out(tmp_path):
    root = photos(tmp_path / "photos")
    (root / "red" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"bad\.png: not an image"):
        fewshot_classify([root], **settings(tmp_path))
    results = fewshot_classify([root], on_error="skip", **settings(tmp_path))
    assert results["objects"] == 21 and len(results["skipped"]) == 1 and "bad.png" in results["skipped"][0]


def test_too_few_objects_stop_or_their_classes_are_left_out(tmp_path):
    root = photos(tmp_path / "photos")
    for number in range(4):
        (root / "red" / f"{number}.png").unlink()
    with pytest.raises(UserError, match="class 'red' has 3 objects, 2 shots and 3 queries need 5"):
        fewshot_classify([root], **settings(tmp_path))
    with pytest.raises(UserError, match="2 classes are too few for 3-way"):
        fewshot_classify([root], on_few="skip", **settings(tmp_path))
    assert fewshot_classify([root], on_few="skip", **settings(tmp_path, way=2))["classes"] == 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Annotated images, their store, and a split of their four classes."""
    folder = tmp_path_factory.mktemp("world")
    contents = make_records(30)
    draw_images(folder, contents)
    write_store(folder / "store", contents, embed(contents))
    write_annotations(folder, contents)
    (folder / "split.json").write_text(json.dumps({"base": NAMES[:2], "novel": NAMES[2:]}))
    return folder, next(folder.glob("**/train.json"))


def test_a_store_with_settings_from_base_classes_and_plug_ins(world):
    folder, file = world
    results = fewshot_classify([folder / "store"], annotations=[file], split=folder / "split.json", tune_on="base",
                               way=2, shots=[1], query=3, episodes=20, tune_episodes=5, smoke=False,
                               heads=["prototype", "matching", "relation"])
    assert results["classes"] == 2 and results["tuned_on"] == 2
    by_name = {row["method"]: row for row in results["rows"]}
    assert by_name["prototype"]["accuracy"] > 95 and "tau" in by_name["matching"]["settings"]


def test_annotated_boxes_are_embedded_themselves(world, tmp_path):
    folder, file = world
    results = fewshot_classify([file], images=[folder / "train"], **settings(tmp_path, way=4, heads=["prototype"]))
    assert results["objects"] == 120 and results["rows"][0]["accuracy"] > 70


@pytest.mark.parametrize(("change", "message"), [
    ({"heads": ["maml"]}, "trained on base classes; name them with --tune-on"),
    ({"heads": ["text"]}, "--class-head"), ({"annotations": []}, "name the annotation file"),
    ({"subset": "rare"}, "no subset 'rare'"), ({"classes": ["red"], "subset": "novel"}, "give one of them"),
    ({"split": None, "subset": "novel"}, "of what"), ({"tune_classes": ["blue"]}, "both to test and to tune on"),
    ({"split": "coco", "subset": "novel"}, "split coco has no novel classes; choose another subset, such as base"),
    ({"out": __file__ + "/x.json"}, "x.json: cannot write"),
    ({"seed": -1}, "--seed -1"), ({"tune_on": "base", "tune_episodes": 1}, "--tune-episodes 1"),
    ({"annotations": ["a", "b"]}, "--annotations: 2 given for 1 sources")])
def test_mistakes_are_said_in_one_line(world, change, message):
    folder, file = world
    given = {"annotations": [file], "split": folder / "split.json", "way": 2, "shots": [1], "query": 3, "episodes": 5,
             "heads": ["prototype"], **change}
    with pytest.raises(UserError, match=message) as raised:
        fewshot_classify([folder / "store"], **given)
    assert "\n" not in str(raised.value)


def test_no_source_and_other_widths_are_said(world, tmp_path):
    folder, file = world
    with pytest.raises(UserError, match="empty: a registry without classes"):
        (tmp_path / "empty").mkdir()
        fewshot_classify([folder / "store"], annotations=[file], heads=["text"], class_head=str(tmp_path / "empty"))
    named = photos(tmp_path / "named")
    first = sorted(named.iterdir())[0]
    shutil.copytree(first, named / first.name.upper())
    with pytest.raises(UserError, match=f"'{first.name.upper()}' and '{first.name}' are one class name in two"):
        fewshot_classify([named], **settings(tmp_path))
    with pytest.raises(UserError, match="none: no such file or folder"):
        fewshot_classify([tmp_path / "none"], **settings(tmp_path))
    with pytest.raises(UserError, match=r"embeddings of width 128, those of .*store have 12"):
        fewshot_classify([folder / "store", photos(tmp_path / "photos")], annotations=[file], **settings(tmp_path))
    with pytest.raises(UserError, match="makes no class head; choose one of prototype"):
        predict(["x.png"], [folder / "store"], heads=["relation"], annotations=[file])
