"""A user's boxes: what each kind of file gives, and one clear line for each that is wrong."""

import json

import pytest

from ovd.errors import UserError
from ovd.fewshot.boxes_file import read_boxes_file
from ovd.stores.manifest import fingerprint

CSV = """image,x1,y1,x2,y2,class
a.jpg,10,20,50,60.5,gadget
sub/b.png,0,0,30,30,widget
a.jpg,1,2,3,4,gadget
"""


def written(tmp_path, text: str, name: str = "boxes.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def coco(**changes) -> dict:
    return {
        "info": {"image_folder": "train/"},
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 40, 30], "area": 1200},
                        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 90, 70], "area": 6300, "iscrowd": 1}],
        "categories": [{"id": 3, "name": "gadget"}],
    } | changes


def test_a_csv_gives_the_boxes_of_each_class_in_its_order(tmp_path):
    path = written(tmp_path, CSV)
    shots = read_boxes_file(path)
    assert {name: [(shot.image, shot.box) for shot in each] for name, each in shots.classes.items()} == {
        "gadget": [("a.jpg", (10, 20, 50, 60.5)), ("a.jpg", (1, 2, 3, 4))], "widget": [("sub/b.png", (0, 0, 30, 30))]}
    assert shots.info["sha256"] == fingerprint(path) and shots.info["file"] == "boxes.csv"
    assert read_boxes_file(path, ["widget"]).names == ("widget",)


def test_a_csv_without_classes_is_of_the_class_that_is_asked_for(tmp_path):
    path = written(tmp_path, "\ufeffimage, x1, y1, x2, y2\n a.jpg , 1,2,3,4\n\n")
    assert [(s.image, s.box) for s in read_boxes_file(path, ["gadget"])["gadget"]] == [("a.jpg", (1, 2, 3, 4))]
    with pytest.raises(UserError, match="has no column class, so all its boxes are of one class: name that one"):
        read_boxes_file(path)


def test_a_coco_json_gives_its_boxes_without_crowds(tmp_path):
    path = written(tmp_path, json.dumps(coco()), "boxes.json")
    shots = read_boxes_file(path, ["gadget"])
    (shot,) = shots["gadget"]
    assert (shot.image, shot.image_id, shot.box, shot.annotation_id, shot.size) == \
        ("a.jpg", 7, (10, 20, 50, 50), 1, (100, 80))
    assert shots.info["image_folder"] == "train/"


def test_a_file_of_shots_is_read_too(tmp_path):
    shots = read_boxes_file(written(tmp_path, CSV))
    shots.save(tmp_path / "shots.json")
    again = read_boxes_file(tmp_path / "shots.json", ["gadget"])
    assert again.classes == {"gadget": shots["gadget"]} and again.info["method"] == "boxes file"


@pytest.mark.parametrize(("text", "message"), [
    ("", "has no column 'image'; the first line of a csv"),
    ("a.jpg,1,2,3,4\n", "unknown column 'a.jpg'"),
    ("image,x1,y1,x2,klass\n", "unknown column 'klass'"),
    ("image,x1,y1,x2,y1\n", "has the column 'y1' twice"),
    ("image,x1,y1,x2,y2,class\n", "has no boxes"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,3\n", "line 2: has 4 values, expected 6"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,3,four,x\n", "line 2: 1, 2, 3, four are not four numbers"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,nan,4,x\n", "line 2: .* are not four numbers"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,3,4,x\nb.jpg,5,2,3,4,x\n", "line 3: .*is no box; give x1 < x2"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,3,4,\n", "line 2: has no class"),
    ("image,x1,y1,x2,y2,class\n,1,2,3,4,x\n", "line 2: has no image"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,3,4,x\na.jpg,1.0,2,3,4,x\n", "line 3 is the same box as line 2"),
    ("image,x1,y1,x2,y2,class\na.jpg,1,2,3,4,My Gadget\na.jpg,1,2,3,5,my_gadget\n",
     "'My Gadget' and 'my_gadget' are one class name in two spellings"),
    ("image;x1;y1;x2;y2;class\na.jpg;1;2;3;4;x\n", "columns are separated by ';'; write commas"),
    ("image\tx1\ty1\tx2\ty2\na.jpg\t1\t2\t3\t4\n", "columns are separated by '.t'; write commas"),
    ('image,x1,y1,x2,y2,class\n"a.jpg,1,2,3,4,x\n', "is no csv in UTF-8"),
])
def test_a_wrong_csv_is_one_line_that_names_the_record(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_boxes_file(written(tmp_path, text))
    assert "\n" not in str(caught.value) and "boxes.csv" in str(caught.value)


BOX = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 40, 30], "area": 1200}


@pytest.mark.parametrize(("changes", "message"), [
    ({"annotations": []}, "the class 'gadget' has no boxes; draw at least one"),
    ({"annotations": [BOX | {"iscrowd": 1}]}, "the class 'gadget' has no boxes"),
    ({"annotations": [BOX | {"bbox": [500, 20, 40, 30]}]}, "annotation.*outside"),
    ({"annotations": [BOX | {"bbox": [80, 20, 40, 30]}]}, r"annotation 1: image a.jpg: the box 80, 20, 120, 50 .* is "
     "outside the image of 100 x 80"),
    ({"annotations": [BOX, BOX | {"id": 2}]}, "annotation 2 is the same box as annotation 1"),
    ({"categories": [{"id": 3, "name": "gadget"}, {"id": 4, "name": " gadget"}]}, "2 categories are named 'gadget'"),
    ({"images": []}, "boxes.json"),
    ({"categories": [], "annotations": []}, "has no boxes; draw at least one"),
])
def test_a_wrong_json_is_one_line_that_names_the_record(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_boxes_file(written(tmp_path, json.dumps(coco(**changes)), "boxes.json"))
    assert "\n" not in str(caught.value) and "boxes.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"info": 3}', "\0\1"])
def test_what_is_no_boxes_file_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"boxes\.json") as caught:
        read_boxes_file(written(tmp_path, text, "boxes.json"))
    assert "\n" not in str(caught.value)


def test_a_class_that_the_file_does_not_have_is_named_with_its_own(tmp_path):
    path = written(tmp_path, CSV)
    with pytest.raises(UserError, match="has no boxes of a class 'gadgt'; did you mean gadget"):
        read_boxes_file(path, ["gadgt"])
    with pytest.raises(UserError, match="has no boxes of a class 'zebra'; known: gadget, widget"):
        read_boxes_file(path, ["zebra"])
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        read_boxes_file(tmp_path / "nowhere.csv")
