"""Labelled pictures from folders, lists and the few-shot benchmarks."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ovd.data.classification.annotated import read_annotated
from ovd.data.classification.benchmarks import BENCHMARKS, Benchmark, cub_subset, read_benchmark
from ovd.data.classification.folders import read_folder
from ovd.data.classification.lists import read_csv
from ovd.errors import UserError


def png(colour=(200, 30, 40), side=8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def put(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if data is None else data)
    return path


def test_folders_are_classes(tmp_path):
    for file in ("red_fox/b.PNG", "red_fox/a.jpg", "002.Owl/deep/c.png", "red_fox/notes.txt", ".git/x.png"):
        put(tmp_path / file)
    found = [(picture.name, picture.source.removeprefix(f"{tmp_path}/")) for picture in read_folder(tmp_path)]
    assert found == [("Owl", "002.Owl/deep/c.png"), ("red fox", "red_fox/a.jpg"), ("red fox", "red_fox/b.PNG")]


@pytest.mark.parametrize(("files", "message"), [
    (["a.png"], "has no folders"), (["cat/a.png", "dog/readme.txt"], "dog: has no images"),
    (["red_fox/a.png", "red fox/a.png"], "is the class 'red fox', and so is")])
def test_folders_that_are_no_classes_are_refused(tmp_path, files, message):
    for file in files:
        put(tmp_path / file)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path)


def test_lists_with_and_without_boxes_and_heads(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\ufeffpath,class,x1,y1,x2,y2\nred/1.png,cat,1,2,3.5,4\n\n2.png,\"dog, brown\",,,,\n")
    cat, dog = read_csv(path, "photos")
    assert (cat.source, cat.name, cat.box) == ("photos/red/1.png", "cat", (1.0, 2.0, 3.5, 4.0))
    assert (dog.name, dog.box) == ("dog, brown", None)
    path.write_text("filename,label\nn01.jpg,n01532829\n")
    assert [(p.source, p.name) for p in read_csv(path)] == [(str(tmp_path / "n01.jpg"), "n01532829")]


@pytest.mark.parametrize(("text", "message"), [
    ("", "lists no pictures"), ("path,class\n", "lists no pictures"), ("a.png,cat,3\n", "line 1: 'a.png,cat,3' is not"),
    ("a.png,cat\n,dog\n", "line 2"), ("a.png,cat,1,2,x,4\n", "1,2,x,4 is no box"),
    ("a.png,cat,5,2,3,4\n", "the box 5,2,3,4 is inverted"), ("a.png,cat,1,2,nan,4\n", "not finite")])
def test_lists_with_mistakes_are_refused(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_csv(path)


def test_annotated_objects_are_pictures_crowds_are_not(tmp_path):
    box = {"image_id": 4, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    contents = {"images": [{"id": 4, "file_name": "x.png", "width": 9, "height": 9}],
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
                "annotations": [{"id": 1, "category_id": 2, **box}, {"id": 2, "category_id": 1, **box, "iscrowd": 1}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(contents))
    (only,), skipped = read_annotated(path, "photos")
    assert (only.source, only.name, only.box, skipped) == ("photos/x.png", "dog", (1, 2, 4, 6), [])


def test_cub_classes_are_split_by_their_id(tmp_path):
    subsets = [cub_subset(number) for number in range(200)]
    assert {name: subsets.count(name) for name in ("train", "val", "test")} == BENCHMARKS["cub"].classes
    assert subsets[:4] == ["train", "val", "train", "test"]
    for number in range(1, 201):
        put(tmp_path / f"images/{number:03d}.Bird_{number}/1.jpg", b"")
    assert [p.name for p in read_benchmark("cub", tmp_path, "test")][:3] == ["Bird 4", "Bird 8", "Bird 12"]
    put(tmp_path / "images/Bird/1.jpg")
    with pytest.raises(UserError, match="Bird: is not named as CUB's classes are"):
        read_benchmark("cub", tmp_path, "test")


def test_mini_imagenet_is_its_lists(tmp_path):
    lines = [f"n{label:08d}0001.jpg,n{label:08d}" for label in range(20)]
    (tmp_path / "test.csv").write_text("\n".join(["filename,label", *lines]))
    found = read_benchmark("mini-imagenet", tmp_path, "test")
    assert len(found) == 20 and found[3].source == str(tmp_path / "images/n000000030001.jpg")
    (tmp_path / "val.csv").write_text("\n".join(["filename,label", *lines]))
    with pytest.raises(UserError, match="has 20 classes of subset val, mini-imagenet has 16"):
        read_benchmark("mini-imagenet", tmp_path, "val")
    with pytest.raises(UserError, match=r"train\.csv: cannot be read"):
        read_benchmark("mini-imagenet", tmp_path, "train")


@pytest.fixture
def small_tiered(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "tiered-imagenet", Benchmark(BENCHMARKS["tiered-imagenet"].read, {"test": 2}))


def tiered(folder, images, labels):
    (folder / "test_images_png.pkl").write_bytes(pickle.dumps(images))
    (folder / "test_labels.pkl").write_bytes(pickle.dumps(labels))


def test_tiered_imagenet_is_its_pickles(tmp_path, small_tiered):
    colours = [(200, 30, 40), (20, 130, 40), (20, 30, 240)]
    images = [np.frombuffer(png(colour), np.uint8)[:, None] for colour in colours]
    labels = {"label_specific": np.array([0, 1, 0]), "label_general": [0, 0, 0],
              "label_specific_str": ["newt", "lemur"], "label_general_str": ["animal"]}
    tiered(tmp_path, images, labels)
    found = read_benchmark("tiered-imagenet", tmp_path, "test")
    assert [p.name for p in found] == ["newt", "lemur", "newt"] and found[1].source.endswith("png.pkl[1]")
    assert [p.load().getpixel((2, 2)) for p in found] == colours
    assert len({p.digest() for p in found}) == 3
    del labels["label_specific_str"]
    tiered(tmp_path, images, labels | {"label_specific": [0, 1, 0]})
    assert [p.name for p in read_benchmark("tiered-imagenet", tmp_path, "test")] == ["class 0", "class 1", "class 0"]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(("images", "labels", "message"), [
    ([Evil()], {"label_specific": [0]}, "could run code"), ([1, 2], {"label_specific": [0, 1]}, "entry 0 is not an"),
    ([1], {"label_specific": [0, 1]}, "not a list of 2 encoded"), ([1], {"labels": [0]}, "'label_specific' is a list"),
    ([1], [0], "'label_specific' is a list")])
def test_other_pickles_are_refused(tmp_path, small_tiered, images, labels, message, capsys):
    tiered(tmp_path, images, labels)
    with pytest.raises(UserError, match=message):
        read_benchmark("tiered-imagenet", tmp_path, "test")
    assert "ran" not in capsys.readouterr().out


def test_unknown_benchmarks_and_subsets_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean cub"):
        read_benchmark("cubs", tmp_path, "test")
    with pytest.raises(UserError, match="no subset 'tests'; did you mean test"):
        read_benchmark("cub", tmp_path, "tests")
    with pytest.raises(UserError, match="no such folder"):
        read_benchmark("cub", tmp_path / "none", "test")
