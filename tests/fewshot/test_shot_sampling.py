"""Drawing shots: nested, one class apart from another, of different images first, and never what is not a shot."""

import dataclasses
from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.data.annotations import Annotation, Annotations, Category, Image
from ovd.errors import UserError
from ovd.fewshot.annotation_pool import Source, common_root, pool
from ovd.fewshot.shots import sample_shots

NAMES = ("zebra", "gadget", "cup")
SIDE = 100


@st.composite
def annotations(draw, least: int = 1) -> Annotations:
    """A few images with boxes of three classes, ``least`` or more usable ones of each, among crowds and tiny ones."""
    images = [Image(7 * i + 3, SIDE, SIDE, file_name=f"{i}.jpg") for i in range(draw(st.integers(1, 4)))]
    records = []
    for category in range(1, 4):
        kinds = draw(st.lists(st.sampled_from(["usable"] * 5 + ["crowd", "tiny"]), max_size=9))
        for kind in ["usable"] * least + kinds:
            image = draw(st.sampled_from(images))
            x, y = draw(st.tuples(*[st.integers(-5, 60)] * 2))
            side = 4 if kind == "tiny" else draw(st.integers(15, 60))
            records.append(Annotation(len(records) + 1, image.id, category, (x, y, side, side + 1), 9, kind == "crowd"))
    order = draw(st.permutations(records))
    return Annotations(images, order, [Category(i + 1, name) for i, name in enumerate(NAMES)])


def usable(loaded: Annotations, name: str) -> set[int]:
    """Ids of the annotations that may be shots of a class; of equal boxes in an image, the first one's."""
    seen, ids = set(), set()
    for record in loaded.annotations:
        x, y, width, height = record.bbox
        box = (max(x, 0), max(y, 0), min(x + width, SIDE), min(y + height, SIDE))
        if record.iscrowd or NAMES[record.category_id - 1] != name or min(box[2] - box[0], box[3] - box[1]) < 8:
            continue
        if (record.image_id, box) not in seen:
            seen.add((record.image_id, box))
            ids.add(record.id)
    return ids


def ids(shots) -> list[int]:
    return [shot.annotation_id for shot in shots]


@settings(max_examples=20, deadline=None)
@given(annotations(), st.integers(0, 9))
def test_shots_for_k_are_the_first_of_those_for_more(loaded, seed):
    most = min(len(usable(loaded, name)) for name in NAMES)
    everything = sample_shots(loaded, NAMES, most, seed)
    for k in range(1, most + 1):
        fewer = sample_shots(loaded, NAMES, k, seed)
        assert fewer.classes == {name: shots[:k] for name, shots in everything.classes.items()}
        assert fewer.hash == everything.first(k).hash and fewer.first(k).info == fewer.info


@settings(max_examples=20, deadline=None)
@given(annotations(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_a_class_depends_neither_on_other_classes_nor_on_the_order_of_the_file(loaded, seed, random):
    together = sample_shots(loaded, NAMES, 1, seed)
    for name in NAMES:
        assert sample_shots(loaded, [name], 1, seed)[name] == together[name]
    kept = [record for record in loaded.annotations if record.category_id == 1]
    distinct = list({(record.image_id, record.bbox): record for record in kept}.values())
    first = sample_shots(dataclasses.replace(loaded, annotations=distinct), ["zebra"], 1, seed)
    random.shuffle(distinct)
    assert sample_shots(dataclasses.replace(loaded, annotations=distinct), ["zebra"], 1, seed) == first


@settings(max_examples=20, deadline=None)
@given(annotations(), st.integers(0, 9))
def test_shots_are_boxes_of_the_class_each_once_and_all_of_them_at_last(loaded, seed):
    for name in NAMES:
        wanted = usable(loaded, name)
        shots = sample_shots(loaded, [name], len(wanted), seed)[name]
        assert Counter(ids(shots)) == Counter(wanted)
        for shot in shots:
            x1, y1, x2, y2 = shot.box
            assert 0 <= x1 <= x2 - 8 <= SIDE and 0 <= y1 <= y2 - 8 <= SIDE
        words = f"class '{name}': {len(wanted) + 1} shots .* there are {len(wanted)} boxes"
        with pytest.raises(UserError, match=words):
            sample_shots(loaded, [name], len(wanted) + 1, seed)


@settings(max_examples=20, deadline=None)
@given(annotations(), st.integers(0, 9), st.integers(1, 30))
def test_shots_are_spread_evenly_over_images(loaded, seed, k):
    for name in NAMES:
        number = min(k, len(usable(loaded, name)))
        chosen = Counter(shot.image_id for shot in sample_shots(loaded, [name], number, seed)[name])
        available = Counter(record.image_id for record in loaded.annotations if record.id in usable(loaded, name))
        assert len(chosen) == min(number, len(available))
        for count in chosen.values():  # nobody gives another one while somebody else has not given as many
            assert all(chosen[other] >= min(count - 1, available[other]) for other in available)


@settings(max_examples=20, deadline=None)
@given(annotations(), st.integers(0, 9), st.integers(1, 30))
def test_with_replacement_no_box_comes_twice_more_often_than_another(loaded, seed, k):
    shots = sample_shots(loaded, ["cup"], k, seed, replacement=True)["cup"]
    counts = Counter(ids(shots))
    spread = [counts[number] for number in usable(loaded, "cup")]
    assert len(shots) == k and max(spread) - min(spread) <= 1
    if k <= len(spread):
        assert shots == sample_shots(loaded, ["cup"], k, seed)["cup"]


@settings(max_examples=20, deadline=None)
@given(annotations(least=3), st.integers(0, 9))
def test_what_goes_from_the_file_moves_no_shot_of_another_image(loaded, seed):
    name = "gadget"
    whole = sample_shots(loaded, [name], len(usable(loaded, name)), seed)[name]
    gone = whole[0].image_id
    kept = [record for record in loaded.annotations if record.image_id != gone]
    left = [shot for shot in whole if shot.image_id != gone]
    if left:
        less = dataclasses.replace(loaded, annotations=kept)
        assert list(sample_shots(less, [name], len(left), seed)[name]) == left


def test_the_draw_is_fixed_for_good():
    """Files of shots are made again from a seed: another order would be another experiment under the same name."""
    records = [Annotation(i, 1 + i % 3, 1, (i, 2 * i, 20, 20), 400) for i in range(1, 10)]
    loaded = Annotations([Image(i, 99, 99, file_name=f"{i}.jpg") for i in (1, 2, 3)], records, [Category(1, "zebra")])
    for seed in (0, 1):
        drawn = sorted(range(1, 10), key=lambda i: sha256(f"{seed}\0zebra\0{1 + i % 3}.jpg\0{i}".encode()).hexdigest())
        queues = [[i for i in drawn if i % 3 == image] for image in range(3)]
        rounds = [sorted((queue[turn] for queue in queues), key=drawn.index) for turn in range(3)]
        assert ids(sample_shots(loaded, ["zebra"], 9, seed)["zebra"]) == [i for one in rounds for i in one]


def test_seeds_draw_different_shots():
    records = [Annotation(i, i, 1, (1, 1, 20, 20), 400) for i in range(1, 101)]
    loaded = Annotations([Image(i, 99, 99, file_name=f"{i}.jpg") for i in range(1, 101)], records, [Category(1, "cup")])
    seen = [frozenset(ids(sample_shots(loaded, ["cup"], 5, seed)["cup"])) for seed in range(40)]
    assert len(set(seen)) == 40
    often = Counter(number for one in seen for number in one)
    assert len(often) > 75 and max(often.values()) <= 8  # 200 draws of 100: uniform ones leave out 13, and repeat few


def test_reasons_for_too_few_shots_are_told_with_their_numbers():
    records = [Annotation(1, 1, 1, (0, 0, 20, 20), 400), Annotation(2, 1, 1, (0, 0, 20, 20), 400),
               Annotation(3, 1, 1, (5, 5, 20, 3), 60), Annotation(4, 1, 1, (5, 5, 40, 40), 60, 1)]
    loaded = Annotations([Image(1, 99, 99, file_name="a.jpg")], records, [Category(1, "zebra"), Category(2, "cup")])
    with pytest.raises(UserError, match=r"'zebra': 2 shots were asked for, but there are 1 boxes \(left out: 1 crowds, "
                                        r"1 doubled, 1 with a side below 8 pixels\); ask for at most 1, or .*replac"):
        sample_shots(loaded, ["zebra"], 2, 0)
    with pytest.raises(UserError, match=r"'cup': 1 shots .* there are 0 boxes; leave the class out"):
        sample_shots(loaded, ["cup"], 1, 0, replacement=True)
    assert ids(sample_shots(loaded, ["zebra"], 2, 0, min_size=2)["zebra"])


@pytest.mark.parametrize(("names", "k", "words"), [
    (["zebar"], 1, "have no class 'zebar'; did you mean zebra"),
    (["cup", "cup"], 1, "'cup' is asked for twice"),
    (["cup"], 0, "'cup': 0 shots"),
    (["cup"], {"zebra": 2}, "'cup': it is not said how many"),
    (["cup"], {"cup": 0}, "no classes among the shots"),
])
def test_mistakes_in_what_is_asked_for(names, k, words):
    records = [Annotation(i, 1, i, (0, 0, 20, 20), 400) for i in (1, 2)]
    loaded = Annotations([Image(1, 99, 99, file_name="a.jpg")], records, [Category(1, "zebra"), Category(2, "cup")])
    with pytest.raises(UserError, match=words):
        sample_shots(loaded, names, k, 0)


def test_numbers_by_class_and_a_class_with_none_is_left_out():
    records = [Annotation(i, 1, 1 + i % 3, (i, 0, 20, 20), 400) for i in range(30)]
    loaded = Annotations([Image(1, 99, 99, file_name="a.jpg")], records,
                         [Category(i, name) for i, name in enumerate(NAMES, 1)])
    shots = sample_shots(loaded, NAMES, {"cup": 3, "zebra": 1, "gadget": 0}, 0)
    assert {name: len(of_class) for name, of_class in shots.classes.items()} == {"zebra": 1, "cup": 3}
    assert shots.info["k"] == {"zebra": 1, "cup": 3} and shots.k == 3


def source(root, images, records, categories, path="a.json") -> Source:
    return Source(Annotations([Image(i, 50, 50, file_name=f) for i, f in images], records,
                              [Category(i, name) for i, name in categories]), path, root)


def test_files_are_pooled_by_class_name_and_by_image(tmp_path):
    first = source(tmp_path / "a", [(1, "x.jpg"), (2, "y.jpg")], [Annotation(1, 1, 1, (0, 0, 20, 20), 400)],
                   [(1, "cup"), (2, "zebra")])
    second = source(tmp_path / "b", [(1, "x.jpg"), (9, "z.jpg")],
                    [Annotation(1, 1, 1, (5, 0, 20, 20), 400), Annotation(4, 9, 2, (5, 0, 20, 20), 400)],
                    [(1, "zebra"), (2, "cup")])
    third = source(tmp_path / "a", [(70, "y.jpg")], [Annotation(2, 70, 1, (1, 1, 20, 20), 400)], [(1, "speaker")])
    together = pool([first, second, third])
    assert [(i.id, i.file_name) for i in together.images] == [(1, "a/x.jpg"), (2, "a/y.jpg"), (3, "b/x.jpg"),
                                                              (9, "b/z.jpg")]
    assert [(c.id, c.name) for c in together.categories] == [(1, "cup"), (2, "zebra"), (3, "speaker")]
    assert [(r.id, r.image_id, r.category_id) for r in together.annotations] == [(1, 1, 1), (2, 3, 2), (4, 9, 1),
                                                                                (5, 2, 3)]
    together.check("pooled")
    drawn = sample_shots(together, ["cup"], 2, 0)["cup"]
    assert {shot.image for shot in drawn} == {"a/x.jpg", "b/z.jpg"}


def test_sources_must_agree(tmp_path):
    first = source(tmp_path, [(1, "x.jpg")], [], [])
    other = Source(Annotations([Image(1, 60, 50, file_name="x.jpg")], [], []), "b.json", tmp_path)
    with pytest.raises(UserError, match=r"b\.json: image x\.jpg has 50 x 60 pixels"):
        pool([first, other])
    with pytest.raises(UserError, match="2 annotation files and 1 folders"):
        common_root([tmp_path, None])
    assert common_root([tmp_path / "a", tmp_path / "b"]) == tmp_path and common_root([None, None]) is None
