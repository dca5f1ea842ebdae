"""Annotation files: nothing is lost, and every mistake is named."""

import copy
import gc
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.data.annotations import image_path, load_annotations, load_images
from ovd.errors import UserError


def small_file() -> dict:
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 7, "file_name": "7.jpg", "height": 100, "width": 200},
            {"id": 3, "file_name": "3.jpg", "height": 50, "width": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10.5, 20, 30, 40], "area": 600.25, "iscrowd": 0,
             "segmentation": [[10.5, 20, 40.5, 20, 40.5, 60]]},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 200, 100], "area": 9000, "iscrowd": 1,
             "segmentation": {"counts": [5, 9], "size": [100, 200]}},
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    }  # fmt: skip


def written(folder, content) -> str:
    path = folder / "file.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def saved(path, folder, **options) -> dict:
    load_annotations(path, **options).save(folder / "saved.json")
    return json.loads((folder / "saved.json").read_bytes())


def test_fields_have_their_types_and_masks_their_values(tmp_path):
    loaded = load_annotations(written(tmp_path, small_file()))
    first, crowd = loaded.annotations
    assert (first.id, first.image_id, first.category_id) == (1, 7, 2)
    assert first.bbox == (10.5, 20, 30, 40) and first.area == 600.25
    assert first.mask() == [[10.5, 20, 40.5, 20, 40.5, 60]] and first.iscrowd == 0
    assert crowd.mask() == {"counts": [5, 9], "size": [100, 200]} and crowd.iscrowd == 1
    assert loaded.by_image() == {7: [first, crowd], 3: []}
    assert [category.name for category in loaded.categories] == ["cat", "dog"]


def test_images_alone_are_those_of_the_file(tmp_path):
    file = small_file()
    file["images"][0] |= {"license": 3, "something": [1], "coco_url": "http://x/train2017/7.jpg"}
    path = written(tmp_path, file)
    fields = ("id", "height", "width", "file_name", "coco_url")
    assert [[getattr(image, name) for name in fields] for image in load_images(path)] == \
        [[getattr(image, name) for name in fields] for image in load_annotations(path).images]
    assert gc.isenabled()


@pytest.mark.parametrize("content", [b"", b"{", b'{"images": [}', b"[]", b"\xff", b'{"images": 3}'])
def test_images_of_what_is_no_annotation_file_are_a_users_mistake(tmp_path, content):
    with pytest.raises(UserError, match=r"file\.json"):
        load_images(written(tmp_path, content))
    with pytest.raises(UserError, match=r"nothing\.json"):
        load_images(tmp_path / "nothing.json")


def test_lvis_records_have_no_crowds_and_box_only_records_no_masks(tmp_path):
    file = small_file()
    for annotation in file["annotations"]:
        del annotation["iscrowd"], annotation["segmentation"]
    record = load_annotations(written(tmp_path, file)).annotations[0]
    assert record.iscrowd == 0 and record.mask() is None and bytes(record.segmentation) == b"null"
    assert saved(tmp_path / "file.json", tmp_path)["annotations"] == file["annotations"]


def test_a_real_file_is_saved_as_it_was(shared, tmp_path):
    path = shared / "data/coco128/instances_train2017.json"
    real = json.loads(path.read_bytes())
    assert saved(path, tmp_path) == {key: real[key] for key in ("images", "annotations", "categories")}
    loaded = load_annotations(path)
    assert [record.mask() for record in loaded.annotations] == [a["segmentation"] for a in real["annotations"]]
    assert sum(record.iscrowd for record in loaded.annotations) == 13


numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
field_names = st.text(st.characters(min_codepoint=32, exclude_characters='"\\', exclude_categories=["Cs"]))
extra_fields = st.dictionaries(field_names, values, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fields_that_the_library_does_not_know_are_kept(tmp_path_factory, data):
    file = small_file()
    for kind in ("images", "annotations", "categories"):
        file[kind] = [{**data.draw(extra_fields), **record} for record in file[kind]]
    folder = tmp_path_factory.mktemp("extra")
    path = written(folder, file)
    assert saved(path, folder) == {key: file[key] for key in ("images", "annotations", "categories")}


@pytest.mark.parametrize("fields", [{'a"b': 1}, {"\\": 1}, {"\n": 1}, {f"field {i}": i for i in range(101)}])
def test_fields_that_cannot_be_kept_are_refused(tmp_path, fields):
    file = small_file()
    file["annotations"][1].update(fields)
    with pytest.raises(UserError, match=r"annotations\[1\] has a field") as error:
        load_annotations(written(tmp_path, file))
    assert "\n" not in str(error.value)


def test_saved_json_is_compact_and_keeps_blanks_in_texts(tmp_path):
    file = small_file()
    file["images"][0]["note"] = 'a, b:  "c"'
    path = written(tmp_path, json.dumps(file, indent=3).encode())
    load_annotations(path).save(tmp_path / "saved.json")
    del file["info"]
    assert (tmp_path / "saved.json").read_text().count(" ") == file["images"][0]["note"].count(" ")
    assert json.loads((tmp_path / "saved.json").read_bytes()) == file


def test_empty_lists_are_fine(tmp_path):
    file = {**small_file(), "annotations": []}
    assert saved(written(tmp_path, file), tmp_path)["annotations"] == []


def test_the_garbage_collector_is_left_as_it_was(tmp_path):
    assert gc.isenabled()
    load_annotations(written(tmp_path, small_file()))
    assert gc.isenabled()
    with pytest.raises(UserError):
        load_annotations(written(tmp_path, b"{"))
    assert gc.isenabled()


def test_image_paths_follow_the_coco_url_where_there_is_no_file_name(tmp_path):
    file = small_file()
    del file["images"][0]["file_name"]
    file["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/000000000007.jpg"
    images = load_annotations(written(tmp_path, file)).images
    assert [str(image_path(image, "data")) for image in images] == ["data/val2017/000000000007.jpg", "data/3.jpg"]


def change(kind: str, index: int = 0, **fields):
    def apply(file):
        file[kind][index].update(fields)

    return apply


def drop(kind: str, field: str | None = None):
    def apply(file):
        del (file if field is None else file[kind][1])[field or kind]

    return apply


def repeat(kind: str):
    def apply(file):
        file[kind].append(copy.deepcopy(file[kind][0]))

    return apply


NAN = float("nan")
ALWAYS_WRONG = {
    "no annotations": (drop("annotations"), "its top level has no 'annotations'"),
    "no box": (drop("annotations", "bbox"), "annotations[1] has no 'bbox'"),
    "no image id": (drop("annotations", "image_id"), "annotations[1] has no 'image_id'"),
    "no width": (drop("images", "width"), "images[1] has no 'width'"),
    "no name": (drop("categories", "name"), "categories[1] has no 'name'"),
    "no file name": (drop("images", "file_name"), "images[1] (id 3) has neither a file_name nor a coco_url"),
    "id is a text": (change("annotations", id="1"), "annotations[0].id: expected int, got str"),
    "box of three": (change("annotations", bbox=[1, 2, 3]), "annotations[0].bbox: expected array of length 4"),
    "box of texts": (change("annotations", bbox=["1", 2, 3, 4]), "annotations[0].bbox[0]: expected float, got str"),
    "box is null": (change("annotations", bbox=None), "annotations[0].bbox: expected array, got null"),
    "iscrowd 2": (change("annotations", iscrowd=2), "annotations[0].iscrowd: invalid enum value 2"),
    "huge id": (change("annotations", id=10**30), "annotations have a number in id that does not fit"),
    "image ids": (repeat("images"), "images[0] and images[2] have the same id 7"),
    "annotation ids": (repeat("annotations"), "annotations[0] and annotations[2] have the same id 1"),
    "category ids": (repeat("categories"), "categories[0] and categories[2] have the same id 2"),
    "category names": (change("categories", 1, name="cat"), "2 categories are named 'cat'"),
    "flat image": (change("images", 1, height=0), "images[1] (id 3) has the size 60 x 0"),
    "unknown negative": (change("images", neg_category_ids=[2, 9]), "neg_category_ids has the unknown category id 9"),
    "NaN in an image": (change("images", score=NAN), "NaN or infinite number outside its annotations"),
}
SKIPPABLE = {
    "unknown image": (change("annotations", image_id=8), "belongs to the unknown image 8"),
    "image before all": (change("annotations", image_id=-1), "belongs to the unknown image -1"),
    "unknown category": (change("annotations", category_id=3), "has the unknown category 3"),
    "NaN": (change("annotations", bbox=[1, NAN, 3, 4]), "has a NaN or infinite number in bbox"),
    "NaN first": (change("annotations", bbox=[NAN, 1, 3, 4]), "has a NaN or infinite number in bbox"),
    "infinite": (change("annotations", bbox=[1, 2, float("inf"), 4]), "has a NaN or infinite number in bbox"),
    "minus infinite": (change("annotations", bbox=[float("-inf"), 2, 3, 4]), "has a NaN or infinite number in bbox"),
    "NaN area": (change("annotations", area=NAN), "has a NaN or infinite number in area"),
    "NaN in the mask": (change("annotations", segmentation=[[NAN, 2, 3, 4, 5, 6]]), "number in segmentation"),
    "inverted": (change("annotations", bbox=[9, 9, -3, 4]), "has an inverted box [9.0, 9.0, -3.0, 4.0]"),
    "no height": (change("annotations", bbox=[9, 9, 3, 0]), "has a box of zero area"),
    "no width": (change("annotations", bbox=[9, 9, 0, 3]), "has a box of zero area"),
    "right of the image": (change("annotations", bbox=[200, 9, 3, 4]), "outside its image"),
    "below the image": (change("annotations", bbox=[9, 100, 3, 4]), "outside its image"),
    "left of the image": (change("annotations", bbox=[-9, 9, 9, 4]), "outside its image"),
    "above the image": (change("annotations", bbox=[9, -9, 9, 4]), "outside its image"),
    "negative area": (change("annotations", area=-1), "has a negative area"),
    "mask is a text": (change("annotations", segmentation="x"), "neither a list nor an object"),
}


@pytest.mark.parametrize("mistake", [*ALWAYS_WRONG, *SKIPPABLE])
def test_a_mistake_is_one_line_with_file_and_record(tmp_path, mistake):
    apply, words = {**ALWAYS_WRONG, **SKIPPABLE}[mistake]
    file = small_file()
    apply(file)
    path = written(tmp_path, file)
    with pytest.raises(UserError) as error:
        load_annotations(path)
    line = str(error.value)
    assert words in line and path in line and "\n" not in line
    if mistake in SKIPPABLE:
        assert "annotations[0] (id 1, image" in line and "--on-error skip" in line


@pytest.mark.parametrize("mistake", ["no width", "no file name", "image ids", "flat image", "NaN in an image"])
def test_mistakes_of_images_are_found_without_their_annotations_too(tmp_path, mistake):
    apply, words = ALWAYS_WRONG[mistake]
    file = small_file()
    apply(file)
    path = written(tmp_path, file)
    with pytest.raises(UserError) as error:
        load_images(path)
    assert words in str(error.value) and path in str(error.value)


@pytest.mark.parametrize("mistake", SKIPPABLE)
def test_skip_leaves_out_the_unusable_annotation_and_says_so(tmp_path, mistake):
    apply, words = SKIPPABLE[mistake]
    file = small_file()
    apply(file)
    loaded = load_annotations(written(tmp_path, file), on_error="skip")
    assert [record.id for record in loaded.annotations] == [2]
    assert len(loaded.skipped) == 1 and words in loaded.skipped[0]
    assert len(loaded.images) == 2


@pytest.mark.parametrize("mistake", ALWAYS_WRONG)
def test_skip_does_not_hide_what_cannot_be_left_out(tmp_path, mistake):
    file = small_file()
    ALWAYS_WRONG[mistake][0](file)
    with pytest.raises(UserError):
        load_annotations(written(tmp_path, file), on_error="skip")


def test_boxes_that_overhang_are_fine(tmp_path):
    file = small_file()
    file["annotations"][0]["bbox"] = [-0.5, 80, 201, 20.3]
    assert load_annotations(written(tmp_path, file)).annotations[0].bbox == (-0.5, 80, 201, 20.3)


def test_the_flat_boxes_of_the_official_file_are_accepted(tmp_path):
    file = small_file()
    file["images"][0]["id"] = 200365
    file["annotations"][1]["image_id"] = 200365
    file["annotations"][0].update(id=918, image_id=200365, bbox=[96.65, 38.33, 1.03, 0.0], area=0.0)
    assert len(load_annotations(written(tmp_path, file)).annotations) == 2
    file["annotations"][0]["id"] = 919
    with pytest.raises(UserError, match="zero area"):
        load_annotations(written(tmp_path, file))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(json.dumps(small_file())) - 1))
def test_a_file_that_is_cut_anywhere_is_a_users_mistake(tmp_path_factory, length):
    path = written(tmp_path_factory.mktemp("cut"), json.dumps(small_file()).encode()[:length])
    with pytest.raises(UserError, match=r"is cut|is empty"):
        load_annotations(path)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(json.dumps(small_file())) - 1), st.integers(0, 255))
def test_a_changed_byte_is_harmless_or_a_users_mistake(tmp_path_factory, position, byte):
    content = bytearray(json.dumps(small_file()).encode())
    content[position] = byte
    folder = tmp_path_factory.mktemp("byte")
    try:
        load_annotations(written(folder, bytes(content))).save(folder / "saved.json")
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b" \n", b"[]", b"null", b"{]", b"<html>", b"\x89PNG\r\n"])
def test_what_is_no_annotation_file_is_a_users_mistake(tmp_path, content):
    with pytest.raises(UserError, match=r"file\.json"):
        load_annotations(written(tmp_path, content))


def test_an_unreadable_path_is_a_users_mistake(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(UserError, match="cannot read the annotation file"):
            load_annotations(path)


def test_a_file_that_cannot_be_saved_leaves_the_old_one(tmp_path, monkeypatch):
    loaded = load_annotations(written(tmp_path, small_file()))
    before = (tmp_path / "file.json").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="disk is full"):
        loaded.save(tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
