"""``ovd show``: what is wrong is said and ends with status 1, what is right is not called wrong, sheets are there."""

import json
import subprocess
import sys

import numpy as np
import pytest
from annotated_world import (
    NAMES,
    draw_images,
    embed,
    make_records,
    write_annotations,
    write_config,
    write_head,
    write_store,
)
from PIL import Image

from ovd.evaluation.pictures import BLUE, VERMILION
from ovd.stores.shards import Regions, RegionStore
from pipelines.cli import main


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, annotations, a region store, its class head, and a config of all of it."""
    root = tmp_path_factory.mktemp("world")
    contents = make_records(24)
    draw_images(root, contents)
    write_annotations(root, contents)
    write_store(root / "regions" / "proposals", contents, embed(contents))
    write_head(root / "head.safetensors")
    write_config(root / "config.py", root)
    return root


@pytest.fixture
def contents(world):
    return json.loads((world / "annotations" / "train.json").read_text())


def show(what, world, out, *options, annotations=None):
    annotations = annotations or world / "annotations" / "train.json"
    return main(["show", *what.split(), "--annotations", str(annotations), "--image-root", str(world / "train"),
                 "--out", str(out), *map(str, options)])


def has_colour(path, colour):
    return bool((np.asarray(Image.open(path).convert("RGB")) == colour).all(axis=2).sum() > 200)


def shifted_store(world, path, by):
    """A store of the world's boxes, each image's under the id ``by`` places further."""
    store = RegionStore(world / "regions" / "proposals")
    ids = store.image_ids.tolist()
    writer = RegionStore.create(path, "proposals", ids, images_per_shard=50)
    writer.write(0, {image_id: Regions(store[ids[(place - by) % len(ids)]].boxes, store[image_id].scores)
                     for place, image_id in enumerate(ids)})
    writer.finish("proposals", {}, {})
    return path


def test_a_shifted_proposal_store_is_recognised_from_the_command_line(world, tmp_path):
    store = shifted_store(world, tmp_path / "store", 1)
    command = [sys.executable, "-m", "pipelines.cli", "show", "proposals", "--store", store, "--annotations",
               world / "annotations" / "train.json", "--image-root", world / "train", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG: ")]
    assert len(wrong) == 1 and "next image" in wrong[0] and "shifted by 1" in wrong[0]
    assert "look for:" in done.stdout
    assert has_colour(tmp_path / "out" / "proposals.png", VERMILION)  # objects that are not found


def test_proposals_of_their_images_are_not_called_wrong(world, tmp_path, capsys):
    assert show("proposals", world, tmp_path, "--store", world / "regions" / "proposals") == 0
    assert "WRONG" not in capsys.readouterr().out
    sheet = tmp_path / "proposals.png"
    assert has_colour(sheet, BLUE) and not has_colour(sheet, VERMILION)


def test_a_store_of_other_images_is_refused(world, tmp_path, capsys):
    writer = RegionStore.create(tmp_path / "store", "proposals", [900001], images_per_shard=5)
    writer.write(0, {900001: Regions(np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32))})
    writer.finish("proposals", {}, {})
    assert show("proposals", world, tmp_path, "--store", tmp_path / "store") == 2
    assert "has no image of" in capsys.readouterr().err


def test_corners_in_place_of_sizes_are_noticed(world, contents, tmp_path, capsys):
    for a in contents["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]
    (tmp_path / "corners.json").write_text(json.dumps(contents))
    assert show("annotations", world, tmp_path, annotations=tmp_path / "corners.json") == 1
    assert "bbox looks like x1, y1, x2, y2" in capsys.readouterr().out
    assert show("annotations", world, tmp_path) == 0


def test_a_broken_image_is_a_panel_and_the_others_are_drawn(world, contents, tmp_path, capsys):
    contents["images"][0]["file_name"] = "absent.png"
    (tmp_path / "a.json").write_text(json.dumps(contents))
    ids = [image["id"] for image in contents["images"][:2]]
    assert show("annotations", world, tmp_path, "--image-ids", *ids, annotations=tmp_path / "a.json") == 1
    assert "absent.png: no such image" in capsys.readouterr().out
    assert Image.open(tmp_path / "annotations.png").width > 800


def test_the_folder_that_has_the_images_is_named(world, tmp_path, capsys):
    command = ["show", "annotations", "--annotations", str(world / "annotations" / "train.json"), "--out",
               str(tmp_path), "--image-root"]
    assert main([*command, str(world)]) == 2
    assert f"pass --image-root {world / 'train'}" in capsys.readouterr().err
    assert main([*command, str(tmp_path)]) == 2
    assert "no such image, nor are those after it" in capsys.readouterr().err


def test_images_are_chosen_by_seed_class_and_id(world, contents, tmp_path, capsys):
    first, again, other = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    assert [show("annotations", world, out, "--images", 3, "--seed", seed) for out, seed in
            ((first, 0), (again, 0), (other, 1))] == [0, 0, 0]
    read = [(out / "annotations.png").read_bytes() for out in (first, again, other)]
    assert read[0] == read[1] != read[2]
    assert show("annotations", world, tmp_path, "--image-ids", 999) == 2
    assert "has no such image" in capsys.readouterr().err
    assert show("annotations", world, tmp_path, "--class", "rad") == 2
    assert "did you mean red" in capsys.readouterr().err


def test_pages_of_an_earlier_call_are_removed_and_other_files_stay(world, tmp_path):
    assert show("annotations", world, tmp_path, "--images", 14) == 0
    (tmp_path / "annotations_mine.png").write_bytes(b"")
    assert {path.name for path in tmp_path.glob("*.png")} == {"annotations_1.png", "annotations_2.png",
                                                              "annotations_mine.png"}
    assert show("annotations", world, tmp_path, "--images", 2) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"annotations.png", "annotations_mine.png"}


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"name": "tiny", "dataset": "custom", "base": list(NAMES[:2]), "novel": [NAMES[2]]}))
    return path


def training_file(contents, tmp_path, categories):
    kept = {**contents, "annotations": [a for a in contents["annotations"] if a["category_id"] in categories]}
    (tmp_path / "training.json").write_text(json.dumps(kept))
    return tmp_path / "training.json"


def test_a_right_split_shows_its_groups(world, contents, split, tmp_path, capsys):
    training = training_file(contents, tmp_path, {1, 2})
    assert show("splits", world, tmp_path, "--split", split, "--training-file", training) == 0
    told = capsys.readouterr().out
    assert "base     2 classes" in told and "novel    1 class," in told and "removed  1 class," in told
    assert has_colour(tmp_path / "splits.png", BLUE) and has_colour(tmp_path / "splits.png", VERMILION)


@pytest.mark.parametrize(("categories", "words"), [({1, 2, 3}, "of novel classes (blue) would be trained on"),
                                                   ({1}, "base boxes of")])
def test_a_wrong_training_file_is_noticed(world, contents, split, tmp_path, capsys, categories, words):
    training = training_file(contents, tmp_path, categories)
    assert show("splits", world, tmp_path, "--split", split, "--training-file", training) == 1
    assert words in capsys.readouterr().out


def test_a_split_of_another_dataset_is_noticed(world, tmp_path, capsys):
    assert show("splits", world, tmp_path, "--split", "48_17") == 1
    assert "has no category for 65 classes" in capsys.readouterr().out


def test_stored_embeddings_name_their_crops(world, tmp_path, capsys):
    assert main(["show", "crops", str(world / "config.py"), "--no-clip", "--out", str(tmp_path), "--images", "3"]) == 0
    assert "stored embeddings name 100.0 %" in capsys.readouterr().out
    assert Image.open(tmp_path / "crops.png").width > 1000


def test_embeddings_of_other_regions_are_noticed(world, contents, tmp_path, capsys):
    rows = embed(contents)
    moved = dict(zip(rows, [*list(rows.values())[1:], next(iter(rows.values()))]))
    for a in contents["annotations"]:  # those of the next class, so that no name is right by chance
        moved[a["id"]] = np.roll(rows[a["id"]], 1)
    write_store(tmp_path / "store", contents, moved)
    options = ("--store", tmp_path / "store", "--class-head", world / "head.safetensors", "--no-clip")
    assert show("crops", world, tmp_path, *options) == 1
    assert "by chance it would be 25 %" in capsys.readouterr().out


def test_computed_embeddings_are_held_against_stored_ones(world, contents, tmp_path, capsys):
    from ovd.clip.crops import CropRecipe
    from ovd.clip.regions import RegionEncoder
    from ovd.clip.towers import load_clip
    from ovd.data.boxes import corners

    clip = load_clip("shapes")
    encoder = RegionEncoder(clip, CropRecipe())
    by_image = {image["id"]: [] for image in contents["images"][:4]}
    for a in contents["annotations"]:
        if a["image_id"] in by_image:
            by_image[a["image_id"]].append(a["bbox"])
    found = {}
    for image in contents["images"][:4]:
        boxes = corners(by_image[image["id"]]).astype(np.float32)
        rows = encoder(Image.open(world / "train" / image["file_name"]), boxes)
        found[image["id"]] = Regions(boxes, np.ones(4, np.float32), rows)
    for name, mixed in (("right", False), ("wrong", True)):
        writer = RegionStore.create(tmp_path / name, "regions", found, images_per_shard=9, dim=clip.embed_dim)
        writer.write(0, {i: Regions(r.boxes, r.scores, r.embeddings[::-1] if mixed else r.embeddings)
                         for i, r in found.items()})
        writer.finish("embed-regions", {"recipe": CropRecipe().config()}, {"clip": clip.fingerprint})
        options = ("--store", tmp_path / name, "--pretrained", "shapes")
        show("crops", world, tmp_path / f"out_{name}", *options)  # names of colours mean little to this CLIP
        told = capsys.readouterr().out
        assert ("are not those of these crops" in told) == mixed
        assert mixed or "cosine 1.0000 in the median" in told


def test_embeddings_of_slightly_other_crops_are_noted(world, contents, tmp_path, capsys):
    from ovd.clip.crops import CropRecipe
    from ovd.clip.regions import RegionEncoder
    from ovd.clip.towers import load_clip

    encoder = RegionEncoder(load_clip("shapes"), CropRecipe())
    image = contents["images"][0]
    boxes = np.array([[2, 3, 30, 20], [30, 30, 60, 44], [5, 30, 20, 60]], np.float32)
    rows = encoder(Image.open(world / "train" / image["file_name"]), boxes).astype(np.float32)
    rows += 0.14 * np.random.default_rng(0).normal(size=rows.shape) / np.sqrt(128)  # a cosine of 0.99
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    writer = RegionStore.create(tmp_path / "store", "regions", [image["id"]], images_per_shard=9, dim=128)
    writer.write(0, {image["id"]: Regions(boxes, np.ones(3, np.float32), rows.astype(np.float16))})
    writer.finish("embed-regions", {"recipe": CropRecipe().config()}, {"clip": encoder.clip.fingerprint})
    assert show("crops", world, tmp_path, "--store", tmp_path / "store", "--pretrained", "shapes") == 0
    assert "slightly other crops (cosine 0.99" in capsys.readouterr().out


def test_detections_are_drawn_and_judged(world, contents, tmp_path, capsys):
    right = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
             for a in contents["annotations"]]
    (tmp_path / "right.json").write_text(json.dumps(right))
    assert show(f"detections {tmp_path / 'right.json'}", world, tmp_path / "out") == 0
    assert has_colour(tmp_path / "out" / "detections_1.png", BLUE)
    ids = [image["id"] for image in contents["images"]]
    wrong = [{**row, "image_id": ids[ids.index(row["image_id"]) - 1]} for row in right]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    capsys.readouterr()
    assert show(f"detections {tmp_path / 'wrong.json'}", world, tmp_path / "out") == 1
    assert "shifted by 1" in capsys.readouterr().out
    (tmp_path / "none.json").write_text("{}")
    assert show(f"detections {tmp_path / 'none.json'}", world, tmp_path / "out") == 2
    (tmp_path / "own.json").write_text('{"categories": [], "images": [], "annotations": []}')
    capsys.readouterr()
    assert show(f"detections {tmp_path / 'own.json'}", world, tmp_path / "out") == 2
    assert "draw it with ovd show annotations --annotations" in capsys.readouterr().err
    (tmp_path / "own.json").write_text('{"categories": [], "images": [{"file_name": "stream/000000"}]}')
    assert show(f"detections {tmp_path / 'own.json'}", world, tmp_path / "out") == 2
    assert "its pictures are beside it, in pictures/" in capsys.readouterr().err


def test_shots_are_drawn_class_by_class(world, contents, tmp_path, capsys):
    files = {image["id"]: image["file_name"] for image in contents["images"]}
    lines = ["image,x1,y1,x2,y2,class"]
    for a in contents["annotations"][:12]:
        x, y, w, h = a["bbox"]
        lines.append(f"{files[a['image_id']]},{x},{y},{x + w},{y + h},{NAMES[a['category_id'] - 1]}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    command = ["show", "shots", str(tmp_path / "boxes.csv"), "--image-root", str(world / "train"), "--out",
               str(tmp_path / "out")]
    assert main(command) == 0
    names = {NAMES[a["category_id"] - 1] for a in contents["annotations"][:12]}
    assert {path.stem for path in (tmp_path / "out" / "shots").glob("*.png")} == names


def test_what_is_missing_is_said_in_a_line(world, tmp_path, capsys):
    assert main(["show", "annotations", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: no CONFIG is named: pass --annotations FILE\n"
    assert show("proposals", world, tmp_path) == 2
    assert "pass --store DIR" in capsys.readouterr().err
    assert show("crops", world, tmp_path, "--no-clip") == 2
    assert "give it with --store" in capsys.readouterr().err
