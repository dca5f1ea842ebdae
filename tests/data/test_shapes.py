"""The embedded benchmark: who is novel, exact masks, files that COCO and LVIS readers take, bytes from a seed."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from lvis import LVIS
from pycocotools.coco import COCO

from ovd.data.annotations import load_annotations
from ovd.data.shapes.outlines import OUTLINES
from ovd.data.shapes.render import render_scene
from ovd.data.shapes.world import BASE_SHAPES, COLOURS, NOVEL_SHAPES, PATTERNS, world_classes, world_split
from ovd.vocabulary.splits import Split
from pipelines.shapes import render


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    render(folder, train=12, val=6, size=128, seed=4, workers=1)
    return folder


def test_the_split_is_disjoint_and_covers_the_world():
    split = Split.from_json(world_split())
    assert sorted(split.classes) == sorted(c.name for c in world_classes())
    assert (split.num_base, len(split.groups["novel_combination"]), len(split.groups["novel_shape"])) == (72, 15, 15)


def test_new_combinations_use_known_attributes_and_new_shapes_are_new():
    by_kind = {kind: [c for c in world_classes() if c.kind == kind]
               for kind in ("base", "novel_combination", "novel_shape")}
    looks = {(c.pattern, c.colour) for c in by_kind["base"]}
    assert looks == {(p, c) for p in PATTERNS for c in COLOURS}
    assert {c.shape for c in by_kind["base"]} == set(BASE_SHAPES)
    for c in by_kind["novel_combination"]:
        assert c.shape in BASE_SHAPES and (c.pattern, c.colour) in looks
    assert {c.shape for c in by_kind["novel_shape"]} == set(NOVEL_SHAPES)
    assert set(OUTLINES) == {*BASE_SHAPES, *NOVEL_SHAPES}


def test_every_look_occurs_with_many_base_shapes():
    looks = Counter((c.pattern, c.colour) for c in world_classes() if c.kind == "base")
    assert min(looks.values()) >= 6


def test_a_scene_depends_on_its_generator_alone():
    classes = world_classes()
    first, found = render_scene(np.random.default_rng(3), classes)
    again, found_again = render_scene(np.random.default_rng(3), classes)
    assert np.array_equal(first, again)
    assert [o.box for o in found] == [o.box for o in found_again]
    assert not np.array_equal(first, render_scene(np.random.default_rng(4), classes)[0])


def test_masks_do_not_overlap_and_boxes_are_tight():
    for seed in range(15):
        _, objects = render_scene(np.random.default_rng(seed), world_classes())
        assert objects
        assert sum(o.mask.astype(int) for o in objects).max() == 1
        for found in objects:
            rows, columns = np.nonzero(found.mask)
            assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_pixels_of_an_object_have_its_colour():
    hue_channel = {"red": 0, "green": 1, "blue": 2}
    right = total = 0
    for seed in range(10):
        image, objects = render_scene(np.random.default_rng(seed), world_classes())
        for found in objects:
            if found.category.pattern == "plain":
                right += int(image[found.mask].mean(0).argmax() == hue_channel[found.category.colour])
                total += 1
    assert total > 10 and right == total


def test_coco_reads_the_files(dataset):
    coco = COCO(dataset / "annotations" / "instances_train.json")
    assert len(coco.imgs) == 12 and len(coco.cats) == 102
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)


def test_lvis_reads_the_files(dataset):
    lvis = LVIS(str(dataset / "annotations" / "lvis_v1_val.json"))
    frequencies = Counter(c["frequency"] for c in lvis.cats.values())
    assert frequencies["r"] == 30 and frequencies["c"] + frequencies["f"] == 72
    for image_id, image in lvis.imgs.items():
        present = {annotation["category_id"] for annotation in lvis.img_ann_map[image_id]}
        assert not present & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= present


def test_the_project_reads_the_files(dataset):
    for name in ("instances_val", "lvis_v1_train"):
        assert load_annotations(dataset / "annotations" / f"{name}.json").annotations


def test_the_same_seed_gives_the_same_bytes(dataset, tmp_path):
    render(tmp_path, train=12, val=6, size=128, seed=4, workers=2)

    def digests(folder):
        return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest()
                for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"}

    assert digests(tmp_path) == digests(dataset)


def test_more_scenes_leave_the_first_as_they_are(dataset, tmp_path):
    render(tmp_path, train=14, val=6, size=128, seed=4, workers=1)
    for image in (dataset / "train2017").iterdir():
        assert (tmp_path / "train2017" / image.name).read_bytes() == image.read_bytes()


def test_validation_and_training_scenes_differ(dataset):
    ids = [i["id"] for s in ("train", "val")
           for i in json.loads((dataset / "annotations" / f"instances_{s}.json").read_text())["images"]]
    assert len(set(ids)) == len(ids) == 18
