"""Annotation files of splits, against a plain implementation on dicts; and the command line."""

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.data.annotation_table import read_table
from ovd.data.annotations import load_annotations
from ovd.errors import UserError
from ovd.stores.manifest import Manifest, fingerprint
from ovd.vocabulary import official
from ovd.vocabulary.splits import Split, get_split
from pipelines.cli import run_stage
from pipelines.splits import apply_split, build_split, count


def plain_rule(file: dict, split: Split, novel: bool, keep_ids: bool, drop_empty: bool) -> dict:
    """OADP's rewriting, from its description, on plain json."""
    names = list(split.base) + list(split.novel)
    name_of = {category["id"]: category["name"] for category in file["categories"]}
    trained = list(split.base) + (list(split.novel) if novel else [])
    out = copy.deepcopy({key: file[key] for key in ("images", "annotations", "categories")})
    out["annotations"] = [a for a in out["annotations"] if name_of[a["category_id"]] in trained]
    if drop_empty:
        out["images"] = [i for i in out["images"] if any(a["image_id"] == i["id"] for a in out["annotations"])]
    if keep_ids:
        return out
    new_id = {i: names.index(name) for i, name in name_of.items() if name in names}
    for annotation in out["annotations"]:
        annotation["category_id"] = new_id[annotation["category_id"]]
    out["categories"] = [c for c in out["categories"] if c["id"] in new_id]
    for category in out["categories"]:
        category["id"] = new_id[category["id"]]
    out["categories"] = sorted(out["categories"], key=lambda category: category["id"])
    for image in out["images"]:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            if field in image:
                image[field] = [new_id[i] for i in image[field] if i in new_id]
    return out


@st.composite
def annotation_files(draw) -> dict:
    """Files in the style of COCO or LVIS, with extra fields, gaps in ids, and images without objects."""
    lvis = draw(st.booleans())
    category_ids = draw(st.lists(st.integers(1, 500), min_size=3, max_size=9, unique=True))
    image_ids = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=6, unique=True))
    ids_of_categories = st.lists(st.sampled_from(category_ids), max_size=4)
    images = []
    for image_id in image_ids:
        image = {"id": image_id, "height": 480, "width": 640, "license": 3, "note": draw(st.text(max_size=3))}
        if lvis:
            image["coco_url"] = f"http://images.cocodataset.org/val2017/{image_id:012d}.jpg"
            image["neg_category_ids"] = draw(ids_of_categories)
            image["not_exhaustive_category_ids"] = draw(ids_of_categories)
        else:
            image["file_name"] = f"{image_id:012d}.jpg"
        images.append(image)
    coordinate = st.floats(0, 400).map(lambda value: round(value, 2))
    size = st.floats(1, 300).map(lambda value: round(value, 2))
    annotations = []
    for annotation_id in range(draw(st.integers(0, 12))):
        annotation = {
            "id": annotation_id + 1, "image_id": draw(st.sampled_from(image_ids)),
            "category_id": draw(st.sampled_from(category_ids)), "area": draw(size),
            "bbox": [draw(coordinate), draw(coordinate), draw(size), draw(size)],
            "segmentation": [[draw(coordinate) for _ in range(6)]],
        }  # fmt: skip
        if not lvis:
            annotation["iscrowd"] = draw(st.integers(0, 1))
            annotation["attributes"] = {"by": draw(st.text(max_size=3))}
        annotations.append(annotation)
    categories = [{"id": i, "name": f"class {i}", "supercategory": "any"} for i in category_ids]
    return {"info": {}, "images": images, "annotations": annotations, "licenses": [], "categories": categories}


@settings(max_examples=80, deadline=None)
@given(annotation_files(), st.data())
def test_files_equal_the_plain_rule(tmp_path_factory, file, data):
    names = data.draw(st.permutations([category["name"] for category in file["categories"]]))
    first = data.draw(st.integers(0, len(names)))
    second = data.draw(st.integers(max(first, 1), len(names)))
    split = Split("any", "custom", names[:first], names[first:second], names[second:])
    folder = tmp_path_factory.mktemp("plain")
    (folder / "source.json").write_text(json.dumps(file))
    loaded = read_table(folder / "source.json")
    for novel, keep_ids, drop_empty in data.draw(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=3)):
        result = apply_split(loaded, split, novel=novel, keep_ids=keep_ids, drop_empty=drop_empty)
        result.save(folder / "result.json")
        expected = plain_rule(file, split, novel, keep_ids, drop_empty)
        written = json.loads((folder / "result.json").read_bytes())
        assert written == expected and list(written) == ["images", "annotations", "categories"]
        assert count(result) == official.Counts(
            len(expected["images"]), len(expected["annotations"]), len({a["image_id"] for a in expected["annotations"]})
        )


@pytest.fixture
def coco_root(shared, tmp_path):
    """A data folder with the real annotations of 128 photos as training file, and half of them as validation file."""
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    real = json.loads((shared / "data/coco128/instances_train2017.json").read_bytes())
    (folder / "instances_train2017.json").write_text(json.dumps(real))
    real["images"] = real["images"][::2]
    kept = {image["id"] for image in real["images"]}
    real["annotations"] = [a for a in real["annotations"] if a["image_id"] in kept]
    (folder / "instances_val2017.json").write_text(json.dumps(real))
    return tmp_path / "coco"


@pytest.mark.parametrize("name", ["48_17", "65_15"])
@pytest.mark.parametrize("flags", [[], ["--keep-ids"], ["--drop-empty"], ["--keep-ids", "--drop-empty"]])
def test_real_annotations_are_split_by_the_plain_rule(coco_root, name, flags):
    assert run_stage("build-zsl", ["--split", name, "--data-root", str(coco_root), *flags]) == 0
    suffix = ("_original_ids" if "--keep-ids" in flags else "") + ("_min" if "--drop-empty" in flags else "")
    for subset in ("train", "val"):
        source = json.loads((coco_root / f"annotations/instances_{subset}2017.json").read_bytes())
        target = coco_root / f"annotations/instances_{subset}2017_{name}{suffix}.json"
        expected = plain_rule(source, get_split(name), subset == "val", "--keep-ids" in flags, "--drop-empty" in flags)
        assert json.loads(target.read_bytes()) == expected
        assert Manifest.read(target).counts["annotations"] == len(expected["annotations"])


def test_a_file_of_both_lvis_spellings_is_split_and_its_ids_become_labels(tmp_path):
    split = get_split("866_337")
    names = [name.replace("stero", "stereo") for name in reversed(split.classes)]
    file = {
        "images": [{"id": 1, "height": 9, "width": 9, "coco_url": "http://x/val2017/1.jpg",
                    "neg_category_ids": [1, 1203], "not_exhaustive_category_ids": [338]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1203, "bbox": [0, 0, 2, 2], "area": 4}],
        "categories": [{"id": i, "name": name, "synonyms": [name]} for i, name in enumerate(names, start=1)],
    }  # fmt: skip
    (tmp_path / "lvis.json").write_text(json.dumps(file))
    result = apply_split(read_table(tmp_path / "lvis.json"), split, novel=False)
    assert result.images[0].neg_category_ids == [1202, 0] and result.images[0].not_exhaustive_category_ids == [865]
    assert result.columns.category_id.tolist() == [0]
    assert [category.id for category in result.categories] == list(range(1203))


def build(root, *options):
    return run_stage("build-zsl", ["--split", "48_17", "--data-root", str(root), *options])


def contents(root):
    return {path.name: path.read_bytes() for path in sorted((root / "annotations").iterdir())}


def test_current_files_are_skipped_and_others_need_overwrite(coco_root, capsys):
    assert build(coco_root) == 0
    before = contents(coco_root)
    capsys.readouterr()
    assert build(coco_root) == 0
    out = capsys.readouterr().out
    assert "reading" not in out and out.count("current, skipped") == 2 and contents(coco_root) == before

    source = coco_root / "annotations/instances_val2017.json"
    file = json.loads(source.read_bytes())
    file["annotations"].pop()
    source.write_text(json.dumps(file))
    assert build(coco_root) == 2
    error = capsys.readouterr().err
    assert "instances_val2017_48_17.json" in error and "another 'annotations'" in error and "--overwrite" in error
    assert build(coco_root, "--overwrite") == 0
    manifest = Manifest.read(coco_root / "annotations/instances_val2017_48_17.json")
    assert manifest.inputs == {"annotations": fingerprint(source)}


def test_the_same_inputs_give_the_same_bytes(coco_root):
    assert build(coco_root) == 0
    before = {name: data for name, data in contents(coco_root).items() if "manifest" not in name}
    assert build(coco_root, "--overwrite") == 0
    assert before == {name: data for name, data in contents(coco_root).items() if "manifest" not in name}


def test_a_bad_validation_file_leaves_no_training_file_either(coco_root, capsys):
    source = coco_root / "annotations/instances_val2017.json"
    source.write_bytes(source.read_bytes()[:-100])
    assert build(coco_root) == 2
    assert "instances_val2017.json is cut" in capsys.readouterr().err
    assert len(contents(coco_root)) == 2


def test_a_failed_rebuild_leaves_the_old_files(coco_root):
    assert build(coco_root) == 0
    before = contents(coco_root)
    source = coco_root / "annotations/instances_train2017.json"
    whole = source.read_bytes()
    source.write_bytes(whole[:-100])
    assert build(coco_root, "--overwrite") == 2
    source.write_bytes(whole)
    assert contents(coco_root) == before


def test_skipped_annotations_are_in_the_manifest_and_the_summary(coco_root, capsys):
    source = coco_root / "annotations/instances_train2017.json"
    file = json.loads(source.read_bytes())
    file["annotations"][4]["bbox"] = [5, 5, 0, 5]
    source.write_text(json.dumps(file))
    assert build(coco_root, "--subset", "train") == 2
    assert "annotations[4]" in capsys.readouterr().err
    assert build(coco_root, "--subset", "train", "--on-error", "skip") == 0
    assert "1 unusable annotations were left out" in capsys.readouterr().out
    manifest = Manifest.read(coco_root / "annotations/instances_train2017_48_17.json")
    assert len(manifest.skipped) == 1 and "zero area" in manifest.skipped[0] and manifest.counts["skipped"] == 1


def test_one_source_for_both_gives_two_files(coco_root):
    assert build(coco_root, "--val-ann", "instances_train2017.json") == 0
    folder = coco_root / "annotations"
    train = load_annotations(folder / "instances_train2017_48_17.json")
    val = load_annotations(folder / "instances_train2017_48_17_val.json")
    assert len(train.images) == len(val.images) == 128 and len(train.annotations) < len(val.annotations)


def test_a_list_of_names_is_a_split_too(coco_root, tmp_path):
    (tmp_path / "pets.txt").write_text("dog\ncat\n")
    args = ["--split", str(tmp_path / "pets.txt"), "--data-root", str(coco_root), "--subset", "train", "--train-ann"]
    assert run_stage("build-zsl", [*args, "instances_train2017.json"]) == 0
    built = load_annotations(coco_root / "annotations/instances_train2017_pets.json")
    assert [(category.id, category.name) for category in built.categories] == [(0, "dog"), (1, "cat")]
    assert {annotation.category_id for annotation in built.annotations} == {0, 1}


def custom_root(folder):
    """A data folder with a split of its own, as the embedded benchmark has."""
    (folder / "annotations").mkdir(parents=True)
    Split("mine", "custom", ("red star",), ("blue star",)).save(folder / "annotations/split.json")
    file = {
        "images": [{"id": 1, "file_name": "1.png", "height": 9, "width": 9}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0} for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "blue star"}, {"id": 2, "name": "red star"}],
    }
    for subset in ("train", "val"):
        (folder / f"annotations/{subset}.json").write_text(json.dumps(file))


def test_a_split_file_in_a_data_folder_needs_nothing_else(tmp_path):
    custom_root(tmp_path / "world")
    assert run_stage("build-zsl", ["--split", str(tmp_path / "world/annotations/split.json")]) == 0
    train = load_annotations(tmp_path / "world/annotations/train_mine.json")
    val = load_annotations(tmp_path / "world/annotations/val_mine.json")
    assert [annotation.category_id for annotation in train.annotations] == [0]
    assert [annotation.category_id for annotation in val.annotations] == [1, 0]


def test_a_config_says_what_to_build(tmp_path):
    custom_root(tmp_path / "world")
    (tmp_path / "config.py").write_text(
        f"data_root = {str(tmp_path / 'world')!r}\nsplit = 'annotations/split.json'\n"
        "train_ann = 'annotations/train_mine.json'\nval_ann = 'annotations/val_mine.json'\n"
    )
    assert run_stage("build-zsl", [str(tmp_path / "config.py")]) == 0
    assert (tmp_path / "world/annotations/train_mine.json").exists()
    assert (tmp_path / "world/annotations/val_mine.json").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "say which split"),
        (["--split", "48_71"], "no split named '48_71'; did you mean 48_17"),
        (["--split", "866_337"], "does not exist"),
        (["--split", "866_337", "--train-ann", "instances_train2017.json", "--subset", "train"], "no category 'aero"),
        (["--split", "48_17", "--train-ann", "instances_tran2017.json"], "did you mean instances_train2017.json"),
        (["none.py"], "none.py"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line(coco_root, capsys, args, words):
    assert run_stage("build-zsl", [*args, "--data-root", str(coco_root)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1
    assert len(contents(coco_root)) == 2


def test_a_missing_data_folder_is_named(tmp_path, capsys):
    assert build(tmp_path / "none") == 2
    assert "none does not exist; give it with --data-root" in capsys.readouterr().err


def test_counts_of_a_file_that_passes_for_the_official_one_are_checked(coco_root, monkeypatch, capsys):
    source = read_table(coco_root / "annotations/instances_train2017.json")
    base = count(apply_split(source, get_split("48_17"), novel=False))
    monkeypatch.setitem(official.SOURCES, ("coco", "train"), count(source))
    monkeypatch.setitem(official.RESULTS, ("48_17", "train"), base)
    assert build(coco_root, "--subset", "train") == 0
    assert " ok " in capsys.readouterr().out
    assert build(coco_root, "--subset", "train", "--drop-empty") == 0
    assert " ok " in capsys.readouterr().out

    wrong = official.Counts(base.images, base.annotations + 1_000, base.annotated_images)
    monkeypatch.setitem(official.RESULTS, ("48_17", "train"), wrong)
    assert build(coco_root, "--subset", "train", "--overwrite") == 2
    assert f"{base.annotations:,} annotations instead of {wrong.annotations:,}" in capsys.readouterr().err
    assert build(coco_root, "--subset", "train", "--overwrite", "--no-count-check") == 0


def test_an_error_of_the_split_names_the_file(coco_root):
    source = coco_root / "annotations/instances_train2017.json"
    with pytest.raises(UserError, match=r"instances_train2017\.json: there is no category 'blue star' of the split s"):
        build_split(Split("s", "coco", ("blue star",)), coco_root, {"train": source}, subsets=["train"])


def test_the_script_ends_with_status_2_and_no_traceback(coco_root, root):
    command = [sys.executable, "tools/build_zsl_dataset.py", "--data-root", str(coco_root), "--split"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([*command, "48_17"], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "instances_val2017_48_17.json" in done.stdout, done.stderr
    done = subprocess.run([*command, "17_48"], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no split named") and done.stderr.count("\n") == 1


def test_a_kill_at_any_time_leaves_whole_files_that_a_second_run_finishes(coco_root, root):
    """Killed at several moments; what then stands under a final name is complete, and the next run ends the same."""
    assert build(coco_root) == 0
    expected = {name: data for name, data in contents(coco_root).items() if "manifest" not in name}
    command = [sys.executable, "tools/build_zsl_dataset.py", "--data-root", str(coco_root), "--split", "48_17"]
    for delay in (0.0, 0.02, 0.05):
        for path in (coco_root / "annotations").glob("*_48_17*"):
            path.unlink()
        process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
                                   stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # it has begun to read the first file
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for name, data in contents(coco_root).items():
            assert name.startswith(".tmp-") or "manifest" in name or data == expected[name]
        assert build(coco_root) == 0
        found = {name: data for name, data in contents(coco_root).items() if "manifest" not in name}
        assert {name: data for name, data in found.items() if not name.startswith(".tmp-")} == expected
