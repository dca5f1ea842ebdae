"""Support suggested by the command: what is chosen, the file, refusals."""

import json
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from annotated_world import draw_images, make_records, write_annotations, write_config, write_head, write_store

from ovd.clip.crops import CropRecipe
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import load_clip, save_described
from ovd.data.annotations import load_annotations
from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.stores.region_index import build_index
from ovd.stores.shards import RegionStore
from pipelines.support import find_support, read_example

CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset whose squares a random CLIP embedded; red ones are annotated, all are proposals."""
    root = tmp_path_factory.mktemp("supported")
    contents = make_records(16)
    draw_images(root, contents)
    torch.manual_seed(0)
    save_described(root / "clip.safetensors", open_clip.CLIP(**CLIP), CLIP, None, {})
    clip = load_clip(str(root / "clip.safetensors"))
    encoder = RegionEncoder(clip, CropRecipe())
    rows = {}
    for image in contents["images"]:
        here = [a for a in contents["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in here], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        rows |= dict(zip([a["id"] for a in here], encoder(load_rgb(root / "train" / image["file_name"]), boxes)))
    write_store(root / "regions/proposals", contents, rows, clip=clip.fingerprint)
    red = {**contents, "annotations": [a for a in contents["annotations"] if a["category_id"] == 1]}
    write_annotations(root, red)
    write_store(root / "regions/annotated_train", red, rows, clip=clip.fingerprint)
    write_head(root / "head.safetensors", clip=clip.fingerprint)
    return root


@pytest.fixture(scope="module")
def config(world):
    path = write_config(world / "config.py", world)
    path.write_text(path.read_text().replace('"shapes"', f'"{world / "clip.safetensors"}"'))
    return path


def box_of(annotation):
    x, y, w, h = annotation["bbox"]
    return annotation["image_id"], (x, y, x + w, y + h)


def find(config, tmp_path, **options):
    out = find_support(config, out=tmp_path / "support.json", device="cpu", overwrite=True, **options)
    return json.loads(out.read_text())


def test_the_command_writes_a_file_that_annotations_are_read_from(world, config, root, tmp_path, capsys):
    image_id, box = box_of(make_records(16)["annotations"][6])
    command = [sys.executable, "-X", "importtime", root / "tools/find_support.py", config, "--class", "thing",
               "--example", f"{image_id}:{','.join(map(str, box))}", "--text", "a thing", "--k", "4",
               "--out", tmp_path / "s.json", "--show-dir", tmp_path / "shown", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "mmdet" not in done.stderr  # which takes seconds to load
    loaded = load_annotations(tmp_path / "s.json")
    assert [category.name for category in loaded.categories] == ["thing"] and loaded.categories[0].id == 5
    records = json.loads((tmp_path / "s.json").read_text())["annotations"]
    assert [record["source"] for record in records] == ["example"] + 4 * ["suggestion"]
    assert [record.get("rank") for record in records] == [None, 1, 2, 3, 4]
    assert all({"score", "text_score", "example_score", "objectness"} <= record.keys() for record in records[1:])
    assert (tmp_path / "shown/thing.png").stat().st_size > 1000
    assert Manifest.read(tmp_path / "s.json").counts == {"examples": 1, "suggested": 4}
    find_support(config, name="thing", examples=[(image_id, box)], text="a thing", k=4, out=tmp_path / "s.json")
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("with_index", [False, True])
def test_without_diversity_the_most_similar_boxes_are_suggested_in_order(world, config, tmp_path, with_index):
    store, example = RegionStore(world / "regions/proposals"), make_records(16)["annotations"][6]
    index = build_index(store, tmp_path / "index.faiss") and tmp_path / "index.faiss" if with_index else None
    found = find(config, tmp_path, name="thing", examples=[box_of(example)], k=6, diversity=0.0, index=index)
    rows = np.concatenate([store[i].embeddings for i in store.image_ids]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [a["id"] for i in store.image_ids for a in make_records(16)["annotations"] if a["image_id"] == i]
    query = rows[ids.index(example["id"])]
    order = [ids[row] for row in np.argsort(-(rows @ query)) if ids[row] != example["id"]]
    by_id = {a["id"]: a for a in make_records(16)["annotations"]}
    expected = [(by_id[i]["image_id"], by_id[i]["bbox"]) for i in order[:6]]
    assert [(record["image_id"], record["bbox"]) for record in found["annotations"][1:]] == expected
    red = [record for record in found["annotations"][1:] if record["annotated_as"]]
    assert {record["annotated_as"] for record in red} <= {"red"}


def test_diversity_gives_boxes_less_alike(world, config, tmp_path):
    def likeness(diversity):
        found = find(config, tmp_path, name="blue", k=5, diversity=diversity)["annotations"]
        store = RegionStore(world / "regions/proposals")
        rows = np.array([store[r["image_id"]].embeddings[r["position"]] for r in found], np.float32)
        return np.triu(rows @ rows.T, 1).sum()

    assert likeness(0.9) < likeness(0.0)


def test_the_same_pixels_are_suggested_once(world, config, tmp_path):
    """A whole copy of the world under other ids has nothing new to suggest."""
    contents, root = make_records(16), tmp_path / "twice"
    store = RegionStore(world / "regions/proposals")
    rows, shift = {}, 1000
    for a in list(contents["annotations"]):
        position = [b["id"] for b in contents["annotations"] if b["image_id"] == a["image_id"]].index(a["id"])
        rows[a["id"]] = rows[a["id"] + shift] = store[a["image_id"]].embeddings[position]
    again = [a | {"id": a["id"] + shift, "image_id": a["image_id"] + shift} for a in contents["annotations"]]
    contents["annotations"] += again
    contents["images"] += [image | {"id": image["id"] + shift} for image in contents["images"]]
    (root / "train").parent.mkdir()
    (root / "train").symlink_to(world / "train")
    write_annotations(root, contents)
    write_store(root / "regions/proposals", contents, rows, clip=store.manifest.inputs["clip"])
    (root / "head.safetensors").symlink_to(world / "head.safetensors")
    found = find(config, tmp_path, name="blue", k=20, diversity=0.0, pool=100, data_root=root)["annotations"]
    places = [(record["image_id"] % shift, *record["bbox"]) for record in found]
    assert len(found) == 20 and len(set(places)) == 20


def test_typical_annotated_objects_of_the_class_are_chosen(world, config, tmp_path):
    found = find(config, tmp_path, name="red", from_annotations=True, k=5, diversity=0.0)
    annotated = {(a["image_id"], *a["bbox"]) for a in make_records(16)["annotations"] if a["category_id"] == 1}
    assert {(r["image_id"], *r["bbox"]) for r in found["annotations"]} <= annotated
    assert {r["source"] for r in found["annotations"]} == {"annotation"} and found["categories"][0]["id"] == 1
    scores = [record["score"] for record in found["annotations"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)


def test_fewer_candidates_than_asked_for_are_all_given(world, config, tmp_path, capsys):
    found = find(config, tmp_path, name="red", from_annotations=True, k=60)
    assert 0 < len(found["annotations"]) < 60
    assert f"only {len(found['annotations'])} of the 60" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "words"), [
    ({"name": "blu"}, r"no class 'blu'; did you mean blue\?; for a class of your own"),
    ({"name": "gren", "from_annotations": True}, r"train.json: has no class 'gren'; did you mean green"),
    ({"name": "blue", "from_annotations": True}, "has no object of the class 'blue'"),
    ({"name": "a", "examples": [(7, (1, 2, 3, 4))]}, r"--example 7:1,2,3,4: .*has no image 7"),
    ({"name": "a", "examples": [(5, (70, 2, 90, 4))]}, r"--example 5:70,2,90,4: lies outside the image of 64 x 64"),
    ({"name": "a", "examples": [(5, (9, 2, 3, 4))]}, r"--example 5:9,2,3,4: is inverted"),
    ({"name": "blue", "k": 0}, "--k 0"), ({"name": "blue", "diversity": 2.0}, "--diversity 2: needs a number from 0"),
    ({"name": "a", "text": "a thing", "pretrained": "shapes"}, "was made with another CLIP"),
])
def test_wrong_input_is_named_with_the_remedy(world, config, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        find(config, tmp_path, **options)


def test_heads_and_annotations_of_something_else_are_refused(world, config, tmp_path):
    write_head(tmp_path / "other.safetensors", clip="sha256:other")
    with pytest.raises(UserError, match=r"other.safetensors and .*proposals were made with different CLIPs"):
        find(config, tmp_path, name="blue", class_head=tmp_path / "other.safetensors")
    few = make_records(16)
    few["images"] = few["images"][:1]
    few["annotations"] = [a for a in few["annotations"] if a["image_id"] == few["images"][0]["id"]]
    (world / "annotations/few.json").write_text(json.dumps(few))
    with pytest.raises(UserError, match=r"has image \d+, which .*few.json does not have"):
        find(config, tmp_path, name="blue", options=["train_ann=annotations/few.json"])


@pytest.mark.parametrize("text", ["5", "5:1,2,3", "x:1,2,3,4", "5:1,2,3,four"])
def test_examples_that_cannot_be_read_are_named(text):
    with pytest.raises(UserError, match="is not IMAGE_ID:X1,Y1,X2,Y2"):
        read_example(text)
    assert read_example("5: 1,2,3.5,4") == (5, (1, 2, 3.5, 4))


