"""The audit's parts against plain versions of their formulas; what it finds in a small world with planted faults."""

import copy
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from annotated_world import NAMES, draw_images, embed, make_records, prototypes, write_annotations, write_store
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from ovd.data.annotations import load_annotations
from ovd.data.images import Photo
from ovd.evaluation.audit import Settings, audit
from ovd.evaluation.audit_duplicates import connected_groups, double_boxes, image_pairs, same_place, similar_pairs
from ovd.evaluation.audit_labels import LabelScores, best_other, blend, confident_class, confident_thresholds, vote
from ovd.evaluation.audit_missing import MissingFinder, free_proposals, likeness
from ovd.evaluation.audit_neighbours import first_elsewhere, neighbours_elsewhere
from ovd.evaluation.audit_page import AuditPage
from ovd.evaluation.audit_pictures import Pictures, correlations
from ovd.evaluation.audit_report import as_json
from ovd.fewshot.annotated import AnnotatedObjects
from ovd.stores.region_index import RegionIndex
from ovd.stores.shards import Regions, RegionStore

FEW = settings(max_examples=25, deadline=None)


def slow_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@FEW
@given(seed=st.integers(0, 10**6), objects=st.integers(1, 9), k=st.integers(1, 6), classes=st.integers(1, 5))
def test_the_vote_is_the_weighted_nearest_neighbour_classifier(seed, objects, k, classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, objects)
    scores, rows = rng.uniform(-1, 1, (objects, k)).astype(np.float32), rng.integers(-1, objects, (objects, k))
    scores[rows < 0] = -np.inf
    expected = np.zeros((objects, classes))
    for i in range(objects):
        weights = defaultdict(float)
        for score, row in zip(scores[i], rows[i]):
            if row >= 0:
                weights[labels[row]] += np.exp(float(score) / 0.07)
        for label, weight in weights.items():
            expected[i, label] = weight / sum(weights.values())
    np.testing.assert_allclose(vote(scores, rows, labels, classes), expected, atol=1e-6)


def test_clip_alone_decides_where_the_vote_cannot_know():
    voted, text = np.array([[1.0, 0], [1.0, 0], [0, 0]]), np.array([[0.2, 0.8]] * 3)
    mixed = blend(voted, text, 0.25, np.array([False, True, False]))
    np.testing.assert_allclose(mixed, [[0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])


@FEW
@given(seed=st.integers(0, 10**6), objects=st.integers(1, 12))
def test_confident_classes_are_those_of_the_confident_joint(seed, objects):
    rng = np.random.default_rng(seed)
    chances, labels = rng.dirichlet(np.ones(4), objects), rng.integers(0, 4, objects)
    thresholds = confident_thresholds(chances[np.arange(objects), labels], labels, 4)
    confident = confident_class(chances, thresholds)
    other = best_other(chances, labels)
    for j in range(4):
        mine = [chances[i, j] for i in range(objects) if labels[i] == j]
        assert thresholds[j] == pytest.approx(sum(mine) / len(mine) if mine else np.inf)
    for i in range(objects):
        reached = [j for j in range(4) if chances[i, j] >= thresholds[j]]
        assert confident[i] == (max(reached, key=lambda j: chances[i, j]) if reached else -1)
        assert other[i] == max((j for j in range(4) if j != labels[i]), key=lambda j: chances[i, j])


def test_labels_that_nothing_is_known_of_are_not_ranked_and_equal_ones_keep_their_order():
    given_, suggested = np.array([0.1, np.nan, 0.9, 0.1, 0.5]), np.array([0.8, np.nan, 0.05, 0.8, 0.6])
    confident = np.array([True, False, False, False, True])
    scores = LabelScores(given_, np.zeros(5, int), suggested, confident, given_, given_)
    assert scores.ranking().tolist() == [0, 3, 4]


@FEW
@given(seed=st.integers(0, 10**6), count=st.integers(1, 14), pairs=st.integers(0, 14))
def test_groups_are_those_of_plain_union_find(seed, count, pairs):
    pairs = np.random.default_rng(seed).integers(0, count, (pairs, 2))
    parent = list(range(count))

    def find(item):
        while parent[item] != item:
            item = parent[item]
        return item

    for a, b in pairs.tolist():
        a, b = find(a), find(b)
        parent[max(a, b)] = min(a, b)
    assert connected_groups(count, pairs).tolist() == [find(item) for item in range(count)]


def test_a_long_chain_is_one_group():
    order = np.random.default_rng(0).permutation(2000)
    assert not connected_groups(2000, np.stack([order[:-1], order[1:]], axis=1)).any()


@FEW
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 5), min_size=1, max_size=6), once=st.integers(1, 9))
def test_double_boxes_are_those_of_two_loops(seed, counts, once):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 3, (sum(counts), 2)).astype(float)
    boxes, offsets = np.hstack([corner, corner + rng.integers(3, 6, corner.shape)]), np.cumsum([0, *counts])
    expected = [(a, b) for start, end in pairwise(offsets) for a in range(start, end)
                for b in range(a + 1, end) if slow_iou(boxes[a], boxes[b]) > 0.5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovd.evaluation.audit_duplicates.PAIRS_AT_ONCE", once)
        rows, ious = double_boxes(boxes, offsets, 0.5)
    assert rows.tolist() == [list(pair) for pair in expected]
    np.testing.assert_allclose(ious, [slow_iou(boxes[a], boxes[b]) for a, b in expected])


@FEW
@given(seed=st.integers(0, 10**6), images=st.integers(2, 4), pairs=st.integers(0, 12))
def test_images_share_as_many_objects_as_have_a_partner(seed, images, pairs):
    rng = np.random.default_rng(seed)
    image_of = np.sort(rng.integers(0, images, 8))
    pairs = np.unique(np.sort(rng.integers(0, 8, (pairs, 2)), axis=1), axis=0)
    objects = np.bincount(image_of, minlength=images)
    partners = defaultdict(lambda: (set(), set()))
    for a, b in pairs.tolist():
        if image_of[a] != image_of[b]:
            sides = partners[image_of[a], image_of[b]]
            sides[0].add(a)
            sides[1].add(b)
    expected = {key: min(map(len, sides)) for key, sides in partners.items()
                if min(map(len, sides)) >= 0.5 * min(objects[list(key)])}
    keys, shared = image_pairs(pairs, image_of, objects)
    assert {tuple(key): count for key, count in zip(keys.tolist(), shared.tolist())} == expected


def test_similar_pairs_are_listed_once_with_their_cosine():
    scores = np.array([[0.9, 0.8], [0.9, 0.5], [0.8, 0.2]], np.float32)
    pairs, cosines = similar_pairs(scores, np.array([[1, 2], [0, 2], [0, -1]]), 0.6)
    assert pairs.tolist() == [[0, 1], [0, 2]] and cosines.tolist() == pytest.approx([0.9, 0.8])


def test_places_agree_upright_or_mirrored():
    left, right, middle = [0.0, 0.2, 0.3, 0.6], [0.7, 0.2, 1.0, 0.6], [0.4, 0.2, 0.7, 0.6]
    assert same_place(np.array([left] * 3), np.array([left, right, middle])).tolist() == [1, -1, 0]


@FEW
@given(seed=st.integers(0, 10**6), k=st.integers(1, 7))
def test_neighbours_of_the_own_place_are_passed_over(seed, k):
    rng = np.random.default_rng(seed)
    place, rows = rng.integers(0, 3, 6), rng.integers(-1, 6, (4, 5))
    scores = -np.sort(-rng.random((4, 5)).astype(np.float32))
    found = first_elsewhere(scores, rows, place[:4], place, k)
    for i in range(4):
        kept = [(s, r) for s, r in zip(scores[i], rows[i]) if r >= 0 and place[r] != place[i]][:k]
        kept += [(-np.inf, -1)] * (k - len(kept))
        assert list(zip(found[0][i], found[1][i])) == kept


def test_likeness_is_the_mean_of_the_five_best():
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]])
    same = np.array([[True, False, True, True, True, True, True]])
    np.testing.assert_allclose(likeness(scores, same), [(0.9 + 0.7 + 0.6 + 0.5 + 0.4) / 5])
    assert likeness(scores, np.zeros_like(same)).tolist() == [-np.inf]


def test_proposals_on_objects_and_their_parts_are_not_free():
    annotated = np.array([[10.0, 10, 30, 30]])
    proposals = np.array([[11.0, 11, 31, 31], [20, 20, 28, 28], [40, 40, 60, 60], [28, 10, 48, 30]])
    assert free_proposals(proposals, annotated).tolist() == [False, False, True, True]
    assert free_proposals(proposals, np.zeros((0, 4))).all()


# ---- a world with planted faults


class World:
    """Twenty images; ``plant`` changes contents and pictures before they are audited."""

    def __init__(self, tmp_path, plant=lambda contents, root, rows: None, names=NAMES):
        contents = make_records(20)
        draw_images(tmp_path, contents)
        self.rows = embed(contents)
        plant(contents, tmp_path, self.rows)
        path = write_annotations(tmp_path, contents)
        annotations = load_annotations(path)
        self.store = write_store(tmp_path / "store", contents, self.rows)
        self.objects = AnnotatedObjects.join(self.store, annotations, path, names)
        self.files = {image.id: image.file_name for image in annotations.images}
        self.pictures = Pictures({image.id: Photo(image.id, str(tmp_path / "train" / image.file_name), 64, 64)
                                  for image in annotations.images})
        self.index = RegionIndex.scan(self.store)

    def audit(self, with_text=True, **changes):
        chosen = Settings(**{"k": 8, **changes})
        return audit(self.objects, self.index, self.pictures, text if with_text else None, chosen)

    def ids(self, rows):
        return self.objects.annotation_ids[list(rows)].tolist()


def text(rows):
    logits = 20 * rows @ prototypes().T
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True)


def wrong_labels(contents, root, rows):
    for number in (3, 30, 55):
        record = contents["annotations"][number]
        record["category_id"] = 1 + record["category_id"] % 4


@pytest.mark.parametrize("with_text", [True, False])
def test_wrong_labels_come_first_with_the_right_suggestion(tmp_path, with_text):
    world = World(tmp_path, wrong_labels)
    found = world.audit(with_text)
    first = found.ranking[:3]
    assert sorted(world.ids(first)) == [4, 31, 56]
    assert found.labels.confident[first].all() and found.labels.confident.sum() == 3
    np.testing.assert_array_equal((found.labels.suggested[first] + 1) % 4, world.objects.labels[first])
    assert np.isnan(found.labels.by_text).all() != with_text
    assert sum(count for *_, count in found.confusions()) == 3
    assert sum(wrong for _, _, wrong, _ in found.class_rows()) == 3


def test_a_clean_world_has_no_findings(tmp_path):
    found = World(tmp_path).audit()
    assert not len(found.ranking) and not found.images and not found.same_objects and not found.doubles
    page = AuditPage(found, World(tmp_path / "again").pictures, {}, 5).render("A title", "words", [])
    assert page.count("None were found") == 3


def test_neighbours_are_the_nearest_objects_of_other_images(tmp_path):
    world = World(tmp_path)
    scores, rows = neighbours_elsewhere(world.index, world.objects, 5)
    embedded = world.objects.embeddings(np.arange(len(world.objects)))
    cosines = embedded @ embedded.T
    cosines[world.objects.image_of[:, None] == world.objects.image_of] = -np.inf
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :5], atol=2e-3)
    np.testing.assert_allclose(np.take_along_axis(cosines, rows.astype(int), axis=1), scores, atol=2e-3)


def copies(contents, root, rows):
    """Images 0 and 1 again, brighter or mirrored; what was labelled wrong in image 0 is so in its copy."""
    contents["annotations"][0]["category_id"] = 1 + contents["annotations"][0]["category_id"] % 4
    for number, turn in ((0, False), (1, True)):
        old = contents["images"][number]
        new = old | {"id": 901 + number, "file_name": f"copy{number}.jpg"}
        with Image.open(root / "train" / old["file_name"]) as picture:
            changed = ImageOps.mirror(picture) if turn else ImageEnhance.Brightness(picture).enhance(1.15)
        changed.save(root / "train" / new["file_name"], quality=85)
        contents["images"].append(new)
        for a in [a for a in contents["annotations"] if a["image_id"] == old["id"]]:
            x, y, w, h = a["bbox"]
            again = a | {"id": len(contents["annotations"]) + 1, "image_id": new["id"],
                         "bbox": [64 - x - w if turn else x, y, w, h]}
            contents["annotations"].append(again)
            rows[again["id"]] = rows[a["id"]]


def test_copied_images_are_found_and_do_not_vouch_for_each_other(tmp_path):
    world = World(tmp_path, copies)
    found = world.audit(with_text=False)
    assert [(group.image_ids, group.mirrored) for group in found.images] == [((5, 901), False), ((8, 902), True)]
    assert all(group.shared == 4 and group.correlation > 0.95 for group in found.images)
    assert not found.same_objects
    assert sorted(world.ids(found.ranking)) == [1, 81]


def pasted(contents, root, rows):
    """The first square of image 0 also in image 3, at another place, pixel by pixel."""
    (x, y, w, h), image = contents["annotations"][0]["bbox"], contents["images"][3]
    stripes = np.zeros((h, w, 3), np.uint8)
    stripes[::3] = 255
    for name, corner in ((contents["images"][0]["file_name"], (x, y)), (image["file_name"], (1, 30))):
        with Image.open(root / "train" / name) as picture:
            picture.paste(Image.fromarray(stripes), corner)
            picture.save(root / "train" / name)
    again = {"id": 99, "image_id": image["id"], "bbox": [1, 30, w, h]}
    contents["annotations"].append(contents["annotations"][0] | again)
    rows[99] = rows[1]


def test_an_object_pasted_into_another_image_is_found(tmp_path):
    world = World(tmp_path, pasted)
    found = world.audit(object_cosine=0.999)
    assert [world.ids(group.rows) for group in found.same_objects] == [[1, 99]] and not found.images
    assert world.audit(object_cosine=0.999, object_pairs=0).unseen_pairs >= 1


def doubled(contents, root, rows):
    for number, other in ((4, 0), (9, 1)):
        again = copy.deepcopy(contents["annotations"][number]) | {"id": 200 + number}
        again["category_id"] = 1 + (again["category_id"] - 1 + other) % 4
        contents["annotations"].append(again)
        rows[200 + number] = rows[number + 1]


def test_boxes_drawn_twice_are_found_and_the_report_says_of_how_many_classes(tmp_path):
    world = World(tmp_path, doubled)
    found = world.audit()
    assert [world.ids(double.rows) for double in found.doubles] == [[5, 204], [10, 209]]
    report = as_json(found, world.files)
    assert [entry["same_class"] for entry in report["double_boxes"]] == [True, False]
    assert (report["counts"]["boxes_drawn_twice"], report["counts"]["boxes_of_two_classes"]) == (1, 1)


def rare(contents, root, rows):
    """Of yellow one object is left."""
    yellow = [a for a in contents["annotations"] if a["category_id"] == 4]
    contents["annotations"] = [a for a in contents["annotations"] if a not in yellow[1:]]


def test_a_class_of_one_object_is_judged_by_text_or_not_at_all(tmp_path):
    world = World(tmp_path, rare)
    row = int(np.flatnonzero(world.objects.labels == 3)[0])
    alone, told = world.audit(with_text=False), world.audit()
    assert np.isnan(alone.labels.given[row]) and row not in alone.ranking
    assert told.labels.given[row] > 0.9 and row not in told.ranking
    assert as_json(alone, world.files)["counts"]["labels_not_judged"] == 1


def rare_and_wrong(contents, root, rows):
    """The one object that is labelled yellow is not."""
    contents["annotations"] = [a for a in contents["annotations"] if a["category_id"] != 4]
    contents["annotations"][0]["category_id"] = 4


def test_a_class_whose_only_label_is_wrong_casts_no_doubt_on_all_others(tmp_path):
    """Its threshold is next to nothing: whatever is a little less sure of its label than others would reach it."""
    found = World(tmp_path, rare_and_wrong).audit()
    assert found.objects.labels[found.ranking].tolist() == [3]
    assert not found.labels.confident[found.objects.labels != 3].any()


def test_forgotten_objects_are_found_among_proposals(tmp_path):
    forgotten = [7, 22, 41]

    def plant(contents, root, rows):
        contents["annotations"] = [a for a in contents["annotations"] if a["id"] not in forgotten]

    world = World(tmp_path, plant)
    full, rng = make_records(20), np.random.default_rng(3)
    by_image = defaultdict(list)
    for a in full["annotations"]:
        by_image[a["image_id"]].append(a)
    rows = embed(full)
    regions = {}
    for image_id, here in by_image.items():
        squares = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in here)]
        boxes = np.array([*squares, [0, 25, 64, 39]], np.float32)
        background = rng.normal(size=(1, 12))  # looks like nothing
        embedded = np.vstack([[rows[a["id"]] for a in here], background / np.linalg.norm(background)])
        regions[image_id] = Regions(boxes, np.linspace(0.9, 0.5, 5).astype(np.float32), embedded.astype(np.float16))
    writer = RegionStore.create(tmp_path / "proposals", "regions", regions, dim=12)
    writer.write(0, regions)
    writer.finish("embed-regions", {}, {})
    annotated = {i: world.objects.boxes[world.objects.image_ids == i] for i in regions}
    found = world.audit()
    finder = MissingFinder(world.objects, world.index, found.likeness(), text, 0.5, 8)
    missing = finder.find(RegionStore(tmp_path / "proposals"), annotated)
    by_id = {a["id"]: a for a in full["annotations"]}
    expected = {(by_id[i]["image_id"], by_id[i]["category_id"] - 1, *by_id[i]["bbox"][:2]) for i in forgotten}
    assert {(one.image_id, one.label, *map(int, one.box[:2])) for one in missing} == expected
    assert all(world.objects.labels[one.neighbour] == one.label for one in missing)


def test_correlation_ignores_brightness_and_sees_mirroring():
    rng = np.random.default_rng(0)
    grey = rng.normal(size=(8, 8))
    unit = (grey - grey.mean()) / np.linalg.norm(grey - grey.mean())
    shown = {0: unit, 1: unit[:, ::-1]}
    assert correlations([(0, 1), (0, 1), (0, 0)], shown.get, [True, False, False]) == pytest.approx(
        [1, (unit * unit[:, ::-1]).sum(), 1])
    assert len(correlations([], shown.get)) == 0


def test_small_pictures_have_length_one_or_nothing_to_see(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.png")
    Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / "b.png")
    pictures = Pictures({i: Photo(i, str(tmp_path / f"{name}.png"), 40, 60) for i, name in enumerate("ab")})
    brighter = ImageEnhance.Brightness(Image.fromarray(noisy)).enhance(0.8)
    brighter.save(tmp_path / "c.png")
    darker = Pictures({0: Photo(0, str(tmp_path / "c.png"), 40, 60)})
    assert np.linalg.norm(pictures.small(0)) == pytest.approx(1)
    assert (pictures.small(0) * darker.small(0)).sum() > 0.99
    assert (pictures.small(0, (0, 0, 20, 20)) * pictures.small(0, (30, 10, 55, 38))).sum() < 0.5
    assert not pictures.small(1).any()
