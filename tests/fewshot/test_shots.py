"""A set of shots: its verbs, its file and hash, what it is checked against, and its records."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from ovd.data.annotations import Annotation, Annotations, Category, Image, load_annotations
from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.fewshot.shots import Shot, ShotSet, sample_shots


def shot(image: int = 1, x: float = 10, annotation: int | None = None, size=(100, 80)) -> Shot:
    return Shot(f"f/{image}.jpg", image, (x, 20, x + 30.5, 60), annotation, size)


@st.composite
def shot_sets(draw) -> ShotSet:
    names = draw(st.lists(st.text(min_size=1, max_size=8).filter(lambda t: t.strip() == t), min_size=1, max_size=4,
                          unique=True))
    some = st.builds(shot, st.integers(1, 5), st.floats(0, 60).map(lambda x: round(x, 2)),
                     st.none() | st.integers(0, 2**40), st.none() | st.just((100, 80)))
    classes = {name: tuple(draw(st.lists(some, min_size=1, max_size=5))) for name in names}
    return ShotSet(classes, {"seed": draw(st.integers(0, 9)), "note": draw(st.text(max_size=5))})


@settings(max_examples=25, deadline=None)
@given(shot_sets())
def test_a_saved_set_is_loaded_equal_and_its_bytes_are_the_same(tmp_path_factory, shots):
    path = tmp_path_factory.mktemp("shots") / "shots.json"
    shots.save(path)
    first = path.read_bytes()
    loaded = ShotSet.load(path)
    assert loaded == shots and loaded.hash == shots.hash and list(loaded.classes) == list(shots.classes)
    loaded.save(path)
    assert path.read_bytes() == first


@settings(max_examples=25, deadline=None)
@given(shot_sets(), st.data())
def test_first_select_and_merge(shots, data):
    k = data.draw(st.integers(1, 6))
    assert shots.first(k).classes == {name: of_class[:k] for name, of_class in shots.classes.items()}
    names = data.draw(st.permutations(shots.names))
    chosen = shots.select(names)
    assert chosen.names == tuple(names) and all(chosen[name] == shots[name] for name in names)
    assert (chosen.hash == shots.hash) == (tuple(names) == shots.names)  # the order of classes is their labels
    assert shots.merge(shots).classes == shots.classes
    both = shots.first(1).merge(shots)
    for name, of_class in shots.classes.items():
        assert (both[name][0].image, both[name][0].box) == (of_class[0].image, of_class[0].box)
        assert {(s.image, s.box) for s in both[name]} == {(s.image, s.box) for s in of_class}


def test_the_hash_is_of_the_shots_alone():
    one = ShotSet({"cup": (shot(), shot(2))}, {"seed": 0})
    assert one.hash == ShotSet({"cup": (shot(), shot(2))}, {"seed": 1}).hash
    for other in ({"cup": (shot(2), shot())}, {"mug": (shot(), shot(2))}, {"cup": (shot(), shot(2, x=11))},
                  {"cup": (shot(), shot(2, annotation=3))}):
        assert one.hash != ShotSet(other).hash


def test_merging_gives_an_id_that_is_taken_anew():
    first = ShotSet({"cup": (shot(1), shot(2))})
    second = ShotSet({"mug": (dataclasses.replace(shot(1), image="other.jpg"),), "cup": (shot(2), shot(2, x=40))})
    merged = first.merge(second)
    assert [(s.image, s.image_id) for s in merged["mug"]] == [("other.jpg", 3)]
    assert merged["cup"] == (shot(1), shot(2), shot(2, x=40))
    assert [part["hash"] for part in merged.info["parts"]] == [first.hash, second.hash]


@pytest.mark.parametrize(("classes", "words"), [
    ({}, "no classes among the shots"),
    ({"cup": ()}, "the class 'cup' has no support boxes"),
    ({" ": (shot(),)}, "' ' is not a class name"),
    ({"cup": (shot(),), "cup ": (shot(),)}, "two classes have one name"),
    ({"speaker_(stereo_equipment)": (shot(),), "speaker_(stero_equipment)": (shot(),)}, "two classes have one name"),
    ({"cup": (shot(), dataclasses.replace(shot(), image="b.jpg"))}, "image id 1 is that of f/1.jpg and of b.jpg"),
    ({"cup": (shot(), dataclasses.replace(shot(), image_id=8))}, "image f/1.jpg has the ids 1 and 8"),
])
def test_what_is_no_set_of_shots(classes, words):
    with pytest.raises(UserError, match=words):
        ShotSet(classes)


@pytest.mark.parametrize(("box", "words"), [
    ((5, 5, 5, 9), "is no box"), ((9, 5, 5, 9), "is no box"), ((0, 0, float("nan"), 9), "is no box"),
    ((1, 2, 3), "is no box"), ((90, 5, 120, 9), r"outside the image of 100 x 80"), ((-3, 0, 9, 9), "outside the image"),
])
def test_what_is_no_shot(box, words):
    with pytest.raises(UserError, match=words):
        Shot("a.jpg", 1, box, size=(100, 80))


def test_unknown_classes_and_numbers_are_refused():
    shots = ShotSet({"zebra": (shot(),)})
    for call in (lambda: shots.select(["zebar"]), lambda: shots["zebar"]):
        with pytest.raises(UserError, match="no shots of 'zebar'; did you mean zebra"):
            call()
    with pytest.raises(UserError, match="0 shots of each class"):
        shots.first(0)


def changed(path, change) -> None:
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c["classes"][0]["shots"][0]["box"].__setitem__(0, 11.0), "was changed after it was written"),
    (lambda c: c["classes"][0].update(name="mug"), "was changed after it was written"),
    (lambda c: c["classes"][0]["shots"].pop(), "was changed after it was written"),
    (lambda c: c["classes"].reverse(), "was changed after it was written"),
    (lambda c: c["classes"][0].update(shots=[]), "the class 'cup' has no support boxes"),
    (lambda c: c["classes"][0].update(name="plate"), "two classes are named 'plate'"),
    (lambda c: c["classes"][0]["shots"][0].pop("image"), "is no file of shots"),
    (lambda c: c["classes"][0]["shots"][0].update(box=[1, 2, 3]), "is no file of shots"),
    (lambda c: c.update(kind="support"), "of kind 'support'"),
    (lambda c: c.update(schema=2), "schema 2"),
    (lambda c: c.pop("hash"), "is no file of shots"),
])
def test_a_changed_file_is_refused(tmp_path, change, words):
    path = tmp_path / "shots.json"
    ShotSet({"cup": (shot(), shot(2)), "plate": (shot(3),)}).save(path)
    changed(path, change)
    with pytest.raises(UserError, match=words) as error:
        ShotSet.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"{"])
def test_what_is_no_file_of_shots(tmp_path, content):
    (tmp_path / "shots.json").write_bytes(content)
    for name in ("shots.json", "none.json"):
        with pytest.raises(UserError, match=name):
            ShotSet.load(tmp_path / name)


def test_images_are_looked_at(tmp_path):
    shots = ShotSet({"cup": (shot(1), shot(2, size=None))})
    (tmp_path / "f").mkdir()
    Picture.new("RGB", (100, 80)).save(tmp_path / "f/1.jpg")
    with pytest.raises(UserError, match=r"2\.jpg: no such image"):
        shots.check(tmp_path)
    Picture.new("RGB", (100, 80)).save(tmp_path / "f/2.jpg")
    shots.check(tmp_path)
    Picture.new("RGB", (100, 50)).save(tmp_path / "f/2.jpg")
    with pytest.raises(UserError, match=r"shot 2 of 'cup': the box 10, 20, 40\.5, 60 .* outside the image of 100 x 50"):
        shots.check(tmp_path)
    Picture.new("RGB", (200, 160)).save(tmp_path / "f/1.jpg")
    with pytest.raises(UserError, match="shot 1 of 'cup' is of an image of 100 x 80 pixels, this has 200 x 160"):
        shots.check(tmp_path)
    (tmp_path / "f/1.jpg").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"1\.jpg: is not a readable image"):
        shots.check(tmp_path)


def world() -> Annotations:
    mask = json.dumps([[10, 20, 30, 20, 30, 40]]).encode()
    records = [Annotation(5, 1, 2, (10.1, 20.3, 30.7, 39.9), 700.0, 0, msgspec.Raw(mask)),
               Annotation(9, 2, 2, (-5, 60, 30, 40), 900.0), Annotation(4, 2, 7, (0, 0, 40, 40), 1600.0)]
    return Annotations([Image(1, 80, 100, file_name="a.jpg"), Image(2, 80, 100, file_name="b.jpg")], records,
                       [Category(2, "cup"), Category(7, "zebra")])


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.annotations.pop(0), "annotation 5 of image 1, a shot of 'cup', is not there"),
    (lambda a: setattr(a.annotations[0], "image_id", 2), "is now of image 2 and of 'cup'"),
    (lambda a: setattr(a.annotations[0], "category_id", 7), "is now of image 1 and of 'zebra'"),
    (lambda a: setattr(a.annotations[0], "bbox", (12, 20, 30, 40)), "now has the box 12, 20, 30, 40"),
    (lambda a: setattr(a.annotations[1], "bbox", (-5, 60, 33, 40)), "now has the box -5, 60, 33, 40"),
    (lambda a: setattr(a.categories[0], "name", "mug"), "a.json: has no class 'cup', of which there are shots"),
])
def test_shots_that_an_annotation_file_no_longer_has(change, words):
    shots = sample_shots(world(), ["cup", "zebra"], {"cup": 2, "zebra": 1}, 0)
    shots.check_annotations(world(), "a.json")
    other = world()
    change(other)
    with pytest.raises(UserError, match=words):
        shots.check_annotations(other, "a.json")


def test_records_hold_the_chosen_boxes_alone(tmp_path):
    shots = sample_shots(world(), ["zebra", "cup"], 1, 0)
    records = shots.to_annotations()
    records.save(tmp_path / "a.json")
    loaded = load_annotations(tmp_path / "a.json")
    assert [(c.id, c.name) for c in loaded.categories] == [(1, "zebra"), (2, "cup")]
    assert len(loaded.annotations) == 2
    for record, shot in zip(loaded.annotations, shots.shots()):
        assert (record.id, record.image_id) == (shot.annotation_id, shot.image_id) and not record.mask_json
        assert np.allclose(corners([record.bbox]), [shot.box], atol=1e-9)


def test_masks_and_areas_come_from_the_source():
    shots = sample_shots(world(), ["cup"], 2, 0)
    records = {a.id: a for a in shots.to_annotations(source=world(), category_ids={"cup": 41}).annotations}
    assert records[5].mask() == [[10, 20, 30, 20, 30, 40]] and records[5].area == 700 and records[9].mask() is None
    assert {a.category_id for a in records.values()} == {41}
    with pytest.raises(UserError, match="no category id for the class 'cup'"):
        shots.to_annotations(category_ids={"mug": 1})


def test_instance_wise_records_have_one_box_an_image():
    shots = ShotSet({"cup": (shot(1), shot(2), shot(1)), "zebra": (shot(1, x=5),)})
    together, apart = shots.to_annotations(), shots.to_annotations(instance_wise=True)
    assert [(i.id, i.file_name) for i in together.images] == [(1, "f/1.jpg"), (2, "f/2.jpg")]
    assert len(together.annotations) == 3  # the repeated one once
    assert [a.image_id for a in apart.annotations] == [i.id for i in apart.images] == [1, 2, 3, 4]
    assert [i.file_name for i in apart.images] == ["f/1.jpg", "f/2.jpg", "f/1.jpg", "f/1.jpg"]
    for records in (together, apart):
        records.check("shots")


def test_sizes_that_are_not_known_are_read(tmp_path):
    shots = ShotSet({"cup": (shot(1, size=None),)})
    with pytest.raises(UserError, match=r"size of image f/1\.jpg is not known"):
        shots.to_annotations()
    (tmp_path / "f").mkdir()
    Picture.new("RGB", (120, 90)).save(tmp_path / "f/1.jpg")
    image = shots.to_annotations(tmp_path).images[0]
    assert (image.width, image.height) == (120, 90)


def test_an_image_that_was_cut_off_is_seen_before_work_is_spent(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Picture.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    shots = ShotSet({"gadget": (Shot("a.jpg", 1, (2, 3, 30, 20)),)})
    shots.check(tmp_path)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[:len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"a\.jpg: cut off or damaged; copy it again$"):
        shots.check(tmp_path)
