"""Search by words and by examples: queries, distinct hits, the sheet, and the commands on a small rendered world."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovd.clip import queries
from ovd.clip.crops import CropRecipe
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import load_clip
from ovd.data.annotations import load_annotations
from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.evaluation.contact_sheet import Tile, contact_sheet, file_stem
from ovd.stores.hits import find_hits, overlap
from ovd.stores.region_index import RegionIndex
from ovd.stores.shards import Regions, RegionStore
from ovd.vocabulary.prompts import get_style, prompts
from pipelines import index as index_stage
from pipelines.search import _examples, search

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "vild.py"


def ovd(*words, **options):
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *map(str, words)], capture_output=True, text=True,
                          cwd=CONFIG.parents[2], **options)


@pytest.fixture(scope="module")
def clip():
    return load_clip("shapes")


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip):
    """A rendered world whose region store holds each object, three times by boxes that overlap."""
    from pipelines.shapes import render

    root = tmp_path_factory.mktemp("world") / "data"
    render(root, train=60, val=1, size=192, seed=5, workers=1)
    annotations = load_annotations(root / "annotations" / "instances_train.json")
    names = {category.id: category.name for category in annotations.categories}
    truth, by_image = {}, annotations.by_image()
    recipe = CropRecipe()
    encoder = RegionEncoder(clip, recipe)
    writer = RegionStore.create(root / "regions" / "train", "regions", [i.id for i in annotations.images], 16,
                                clip.embed_dim)
    records = {image.id: image for image in annotations.images}
    for shard in range(writer.total_shards):
        contents = {}
        for image_id in writer.image_ids(shard):
            record = records[image_id]
            boxes = [(x, y, x + w, y + h) for x, y, w, h in (a.bbox for a in by_image.get(image_id, []))]
            truth[image_id] = [(names[a.category_id], box) for a, box in zip(by_image.get(image_id, []), boxes)]
            boxes = np.array([np.clip(np.add(box, shift), 0, record.width) for box in boxes for shift in (-1, 0, 1)],
                             np.float32).reshape(-1, 4)
            image = load_rgb(root / "train2017" / record.file_name)
            contents[image_id] = Regions(boxes, np.linspace(1, 0, len(boxes), dtype=np.float32), encoder(image, boxes))
        writer.write(shard, contents)
    writer.finish("embed-regions", {"recipe": recipe.config(), "precision": "fp32"}, {"clip": clip.fingerprint})
    return SimpleNamespace(root=root, store=RegionStore(root / "regions" / "train"), truth=truth,
                           ann=root / "annotations" / "instances_train.json", images=root / "train2017")


def common_classes(world, least=3):
    found = [name for objects in world.truth.values() for name, _ in objects]
    return sorted({name for name in found if found.count(name) >= least})


def where(world):
    return {"store": world.store.path, "ann": world.ann, "images": world.images, "pretrained": "shapes"}


def shows(world, hit, name):
    return any(name == owner and overlap(hit["box"], box) > 0.5 for owner, box in world.truth[hit["image_id"]])


def test_commands_find_what_they_are_asked_for(world, tmp_path):
    names = common_classes(world)[:4]
    assert len(names) == 4
    built = ovd("build-index", "--store", world.store.path, "--kind", "ivf")
    assert built.returncode == 0, built.stderr
    assert "kind ivf" in built.stdout and "recall against exact search, regions as queries" in built.stdout
    done = ovd("search", *names, "--config", CONFIG, "--data-root", world.root, "--k", 3, "--ann", world.ann,
               "--show-dir", tmp_path / "show", "--json", tmp_path / "hits.json")
    assert done.returncode == 0, done.stderr
    assert "no index" not in done.stdout and "--scan" not in done.stdout
    found = json.loads((tmp_path / "hits.json").read_text())
    assert found == json.loads((tmp_path / "show" / "results.json").read_text())
    assert [query["query"] for query in found] == names
    for number, query in enumerate(found, 1):
        assert [hit["rank"] for hit in query["hits"]] == [1, 2, 3]
        assert sum(shows(world, hit, query["query"]) for hit in query["hits"]) >= 2
        for hit in query["hits"]:
            assert hit["file"] in done.stdout
            box = world.store[hit["image_id"]].boxes[hit["position"]]
            np.testing.assert_allclose(hit["box"], box, atol=0.006)
        sheet = tmp_path / "show" / f"{number:02d}-{query['query'].replace(' ', '-')}.png"
        assert Image.open(sheet).size[0] > 500
    stale = ovd("search", "x", "--store", world.store.path, "--index", tmp_path / "none", "--pretrained", "shapes")
    assert stale.returncode == 2 and stale.stderr.startswith("error:") and "no such index" in stale.stderr


def test_without_an_index_the_store_is_read_and_that_is_said(world, capsys, tmp_path):
    name = common_classes(world)[0]
    copy = tmp_path / "alone"
    copy.symlink_to(world.store.path)  # a name beside which there is no index
    options = {**where(world), "store": copy, "k": 5}
    scanned = search([name], **options)
    assert f"no index at {tmp_path / 'alone.faiss'} (ovd build-index makes it)" in capsys.readouterr().out
    index_stage.build(store=copy, kind="exact")
    assert "recall is 1" in capsys.readouterr().out
    indexed = search([name], **options)
    assert "no index" not in capsys.readouterr().out
    assert [(hit.image_id, hit.position) for hit in indexed[0].hits] == \
        [(hit.image_id, hit.position) for hit in scanned[0].hits]
    search([name], scan=True, **options)
    assert "no index" not in capsys.readouterr().out  # it was asked for
    index_stage.build(store=copy, kind="ivf", recall=0.01, overwrite=True)
    few, = search([name], **{**options, "k": len(world.store.image_ids), "distinct": "image"})
    assert len(few.hits) < len(world.store.image_ids)
    assert "the lists that the index looks into hold no more; --scan finds the rest" in capsys.readouterr().out


def test_an_example_finds_itself_and_its_like(world):
    name = common_classes(world, 4)[0]
    image_id, box = next((image_id, box) for image_id, objects in world.truth.items() for owner, box in objects
                         if owner == name)
    file = world.images / load_file(world, image_id)
    found, = search([], examples=[(str(file), box)], scan=True, k=3, **where(world))
    assert found.query == file.name
    assert found.hits[0].image_id == image_id and found.hits[0].score > 0.9999
    assert overlap(found.hits[0].box, box) > 0.99
    assert sum(shows(world, {"image_id": hit.image_id, "box": hit.box}, name) for hit in found.hits) >= 2


def load_file(world, image_id):
    return next(image.file_name for image in load_annotations(world.ann).images if image.id == image_id)


def test_text_and_example_are_blended_by_weight(world, clip):
    name, other = common_classes(world)[:2]
    image_id, box = next((image_id, box) for image_id, objects in world.truth.items() for owner, box in objects
                         if owner == other)
    example = (str(world.images / load_file(world, image_id)), box)
    text_D = queries.text_rows(clip, [name], get_style("vild"))[0]
    example_D = queries.example_rows(clip, world.store, [example])[0]
    index = RegionIndex.scan(world.store)
    for weight in (0.0, 0.3, 1.0):
        found, = search([name], examples=[example], text_weight=weight, scan=True, k=4, distinct="off", **where(world))
        mixed = weight * text_D + (1 - weight) * example_D
        scores, rows = index.search((mixed / np.linalg.norm(mixed))[None], 4)
        assert [hit.position for hit in found.hits] == index.locate(rows[0])[1].tolist()
        np.testing.assert_allclose([hit.score for hit in found.hits], scores[0], atol=1e-5)


def test_texts_take_the_templates_of_class_names_without_their_article(clip):
    style = get_style("vild")
    raw = clip.encode_text(prompts("striped red star", style))
    plain = torch.nn.functional.normalize(raw, dim=-1).mean(dim=0)
    expected = (plain / plain.norm()).numpy()
    for text in ("striped red star", "a striped red star", "The striped red star", "an striped red star"):
        np.testing.assert_allclose(queries.text_rows(clip, [text], style)[0], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(queries.text_rows(clip, ["x"], get_style("oadp"))), 1, atol=1e-6)
    as_it_is = clip.encode_text(["a striped red star"])[0]
    np.testing.assert_allclose(queries.text_rows(clip, ["a striped red star"], None)[0],
                               (as_it_is / as_it_is.norm()).numpy(), atol=1e-6)
    assert not np.allclose(queries.text_rows(clip, ["anchor"], style), queries.text_rows(clip, ["chor"], style))


class FromScores:
    """An index over rows with fixed scores, which says how wide it was searched."""

    def __init__(self, scores, image_ids, positions):
        self.order = np.argsort(-np.array(scores), kind="stable")
        self.scores, self.images, self.positions, self.widths = np.float32(scores), image_ids, positions, []

    def __len__(self):
        return len(self.scores)

    def search(self, queries_QD, k):
        self.widths.append(k)
        rows = np.tile(self.order[:k], (len(queries_QD), 1))
        return self.scores[rows], rows

    def locate(self, rows):
        return np.array(self.images)[rows], np.array(self.positions)[rows]


def slow_distinct(boxes, images, order, k, distinct):
    kept = []
    for row in order:
        clash = [other for other in kept if images[other] == images[row]
                 and (distinct == "image" or overlap(boxes[other], boxes[row]) > 0.5)]
        if distinct == "off" or not clash:
            kept.append(row)
    return kept[:k]


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=4), k=st.integers(1, 9), seed=st.integers(0, 999),
       distinct=st.sampled_from(("object", "image", "off")))
def test_distinct_hits_are_those_of_going_through_all_rows(counts, k, seed, distinct):
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(len(counts)), counts)
    positions = np.concatenate([np.arange(count) for count in counts])
    corners = rng.integers(0, 6, (len(images), 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.integers(3, 8, (len(images), 2))], axis=1).astype(np.float32)
    scores = rng.permutation(len(images)) / 100
    objectness = rng.random(len(images)).astype(np.float32)
    store = SimpleNamespace(view=lambda image: Regions(boxes[images == image], objectness[images == image]))
    index = FromScores(scores, images, positions)
    hits, same = find_hits(index, store, np.zeros((2, 4), np.float32), k, distinct)
    expected = slow_distinct(boxes, images, np.argsort(-scores), k, distinct)
    assert [(hit.image_id, hit.position) for hit in hits] == [(images[row], positions[row]) for row in expected]
    assert same == hits
    assert [hit.box for hit in hits] == [tuple(boxes[row].tolist()) for row in expected]
    np.testing.assert_allclose([hit.objectness for hit in hits], objectness[expected])
    assert index.widths == sorted(set(index.widths))  # each search is wider than the one before


def test_the_name_of_a_sheet_keeps_letters_of_any_alphabet():
    assert [file_stem(text, "query") for text in ("A striped, red_star!", "赤い星", "Żółw", "?!")] == [
        "a-striped-red-star", "赤い星", "żółw", "query"]


def test_overlap_of_boxes():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 2, 2), (2, 0, 3, 2)) == 0
    assert overlap((1, 1, 5, 4), (1, 1, 5, 4)) == 1


def test_a_sheet_shows_the_box_framed_in_its_surroundings():
    image = Image.new("RGB", (100, 80), (0, 0, 255))
    image.paste((255, 0, 0), (40, 30, 60, 50))
    sheet = contact_sheet("title", "subtitle", iter([Tile(image, (40, 30, 60, 50), "1", "note")] * 7), columns=5,
                          side=96)
    pixels = np.asarray(sheet).astype(int)
    red = (pixels[..., 0] > 240) & (pixels[..., 1:].max(axis=-1) < 15)
    blue = (pixels[..., 2] > 240) & (pixels[..., :2].max(axis=-1) < 15)
    yellow = (pixels == (255, 196, 0)).all(axis=-1)
    assert 0.8 * 7 * 40**2 < red.sum() <= 7 * 40**2  # 20 of the 48 pixels that are shown, twice as large
    assert blue.sum() > 7 * 96**2 - 7 * 48**2
    assert yellow.sum() > 7 * 4 * 36
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert np.count_nonzero(np.diff(rows) > 50) == 1 and np.count_nonzero(np.diff(columns) > 50) == 4  # 5 and 2
    long = contact_sheet("words " * 200, "", [Tile(image, (0, 0, 100, 80), "x" * 300)])
    assert long.width < 800 and contact_sheet("nothing", "", []).width > 0


def test_mistakes_are_explained(world, tmp_path):
    for images, boxes, said in (([], ["1,2,3,4"], "of which picture"), (["a", "b"], ["1,2,3,4"], "2 times --image"),
                                (["a"], ["1,2,x,4"], "needs four numbers"), (["a"], ["1,2,3"], "needs four numbers")):
        with pytest.raises(UserError, match=said):
            _examples(images, boxes)
    assert _examples(["a"], ["1,2,3,4", "5,6,7,8"]) == [("a", [1, 2, 3, 4]), ("a", [5, 6, 7, 8])]
    assert _examples(["a", "b"], []) == [("a", None), ("b", None)]
    place = where(world)
    picture = tmp_path / "p.png"
    Image.new("RGB", (30, 20)).save(picture)
    for texts, options, said in (
            ([], {}, "nothing to look for"), (["x"], {"k": 0}, "one hit or more"),
            (["x", "x"], {}, "there twice"), (["x"], {"style": "vold"}, "did you mean vild"),
            (["x"], {"data_root": tmp_path}, "change a config: name that"),
            (["x"], {"pretrained": None}, "no CLIP is named"),
            (["x"], {"ann": None, "images": None, "show_dir": tmp_path}, "where the images are"),
            (["x"], {"index": "i", "scan": True}, "give one of them"),
            (["x"], {"text_weight": 1.5}, "weight of 0 to 1"),
            ([], {"examples": [(picture, (40, 2, 50, 9))]}, "p.png: box number 1 .*lies outside the image of 30 x 20"),
            ([], {"examples": [("none.png", None)]}, "none.png: no such image")):
        with pytest.raises(UserError, match=said):
            search(texts, **{**place, "scan": True, **options})


def test_without_a_config_the_one_store_that_is_here_is_searched(world, tmp_path, monkeypatch, capsys):
    """The command `ovd search TEXT --k 20 --show-dir D` as it stands."""
    monkeypatch.chdir(tmp_path)
    for stage in (lambda: search(["x"]), index_stage.build):
        with pytest.raises(UserError, match=r"no region store \(train\) of .* is here: add .*CONFIG, or --store DIR"):
            stage()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shapes").symlink_to(world.root)
    name = common_classes(world)[0]
    with pytest.raises(UserError, match=r"instances_train_shapes.json: "):
        search([name])  # the config's annotation file
    found, = search([name], ann=world.ann, k=20, scan=True, show_dir=tmp_path / "D")
    assert len(found.hits) == 20 and (tmp_path / f"D/01-{name.replace(' ', '-')}.png").exists()
    assert "region store data/shapes/regions/train, as " in capsys.readouterr().out
    (tmp_path / "data/coco").symlink_to(world.root)
    with pytest.raises(UserError, match=r"2 region stores .*: add --config CONFIG, such as .*\(for data/coco/regions"):
        search([name])


def test_images_of_lvis_which_have_an_address_alone_are_named_and_shown(world, tmp_path):
    contents = json.loads(world.ann.read_text())
    for image in contents["images"]:
        image["coco_url"] = f"http://somewhere/train2017/{image.pop('file_name')}"
    (tmp_path / "lvis.json").write_text(json.dumps(contents))
    place = {**where(world), "ann": tmp_path / "lvis.json", "images": world.root}
    search([common_classes(world)[0]], k=2, json_file=tmp_path / "hits.json", show_dir=tmp_path / "show", **place)
    file = json.loads((tmp_path / "hits.json").read_text())[0]["hits"][0]["file"]
    assert file.startswith("train2017/") and (world.root / file).exists()


def test_another_clip_and_other_annotations_are_refused(world, tmp_path):
    foreign = RegionStore.create(tmp_path / "foreign", "regions", [1], dim=world.store.dim)
    row = np.eye(1, world.store.dim, dtype=np.float16)
    foreign.write(0, {1: Regions(np.float32([[0, 0, 9, 9]]), np.float32([1]), row)})
    foreign.finish("embed-regions", {}, {"clip": "sha256:other"})
    place = {**where(world), "store": tmp_path / "foreign"}
    with pytest.raises(UserError, match=r"made with another CLIP .sha256:other, width 128. than shapes"):
        search(["x"], **place)
    foreign.finish("embed-regions", {}, {})  # as an imported store: it does not say
    with pytest.raises(UserError, match="has image 1, which the annotation file does not have"):
        search(["x"], **place)
    found, = search(["x"], **{**place, "ann": None, "images": None})
    assert [(hit.image_id, hit.position) for hit in found.hits] == [(1, 0)]
    with pytest.raises(UserError, match="does not say how its regions were cropped"):
        search([], examples=[(str(next(world.images.iterdir())), None)], **place)
