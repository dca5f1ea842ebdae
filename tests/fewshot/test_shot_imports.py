"""Shots of TFA's lists and of MMFewShot's saved datasets."""

import json
from pathlib import Path

import pytest

from ovd.data.annotations import Annotation, Annotations, Category, Image
from ovd.errors import UserError
from ovd.fewshot.saved_dataset import read_saved_dataset
from ovd.fewshot.tfa_lists import TfaLists, read_tfa


def voc() -> Annotations:
    """What ovd voc-to-coco makes: names by year, difficult objects as crowds."""
    images = [Image(n, 80, 100, file_name=f"VOC{year}/JPEGImages/{stem}.jpg")
              for n, year, stem in ((12, 2007, "000012"), (17, 2007, "000017"), (2008000003, 2012, "2008_000003"))]
    records = [Annotation(1, 12, 1, (0, 0, 20, 20), 400), Annotation(2, 12, 2, (5, 5, 20, 20), 400),
               Annotation(3, 17, 1, (9, 0, 20, 20), 400), Annotation(4, 17, 1, (0, 9, 20, 20), 400, 1),
               Annotation(5, 2008000003, 1, (1, 1, 20, 20), 400)]
    return Annotations(images, records, [Category(1, "bird"), Category(2, "bus")])


def voc_lists(folder: Path, **lists: str) -> TfaLists:
    folder.mkdir()
    for name, lines in lists.items():
        (folder / f"box_2shot_{name}_train.txt").write_text(lines)
    (folder / "README").write_text("")
    return TfaLists.find(folder)


BIRDS = "datasets/VOC2012/JPEGImages/2008_000003.jpg\nVOCdevkit/VOC2007/JPEGImages/000017.jpg\n"


def test_voc_lists_are_the_boxes_of_the_class_in_the_listed_images(tmp_path):
    lists = voc_lists(tmp_path / "benchmark_2shot", bird=BIRDS, bus="x/000012.jpg\n\nx/000012.jpg\n")
    assert (lists.kind, lists.shots, lists.names(2)) == ("voc", (2,), ("bird", "bus"))
    shots = read_tfa(lists, ["bus", "bird"], annotations=voc())
    assert shots.names == ("bus", "bird") and [shot.annotation_id for shot in shots["bus"]] == [2]
    # three birds in the two images, a difficult one among them: of each image one comes before another of any
    assert {shot.image for shot in shots["bird"]} == {"VOC2007/JPEGImages/000017.jpg",
                                                      "VOC2012/JPEGImages/2008_000003.jpg"}
    assert {shot.annotation_id for seed in range(20)
            for shot in read_tfa(lists, ["bird"], seed=seed, annotations=voc())["bird"]} == {3, 4, 5}
    assert set(shots.info["files"]) == {"box_2shot_bird_train.txt", "box_2shot_bus_train.txt"}
    shots.check_annotations(voc(), "voc.json")


@pytest.mark.parametrize(("lists", "call", "words"), [
    ({"bird": BIRDS}, {"names": ["bird", "bus"]}, r"the class 'bus' has no list of 2 shots, box_2shot_bus_train\.txt"),
    ({"bird": BIRDS}, {"k": 5}, "has lists of 2 shots, none of 5; choose one with --shots"),
    ({"bird": BIRDS}, {"annotations": None}, "give --annotations, the file that ovd voc-to-coco"),
    ({"bird": "a/2010_000001.jpg"}, {}, "has no image 2010_000001, .* convert VOC2012 trainval too"),
    ({"bus": "a/000017.jpg"}, {}, r"image 000017 has no 'bus', for which box_2shot_bus_train\.txt lists it"),
    ({"bus": "\n"}, {}, "lists no box of the class 'bus'"),
])
def test_mistakes_in_voc_lists(tmp_path, lists, call, words):
    found = voc_lists(tmp_path / "lists", **lists)
    with pytest.raises(UserError, match=words):
        read_tfa(found, **{"annotations": voc(), "ann_file": "voc.json", **call})


def coco_list(folder: Path, name: str, k: int, ids: list[int]) -> None:
    """As TFA's: all categories, the images of the shots, the class's boxes; a crowd and another class are no shots."""
    folder.mkdir(exist_ok=True)
    record = {"area": 400, "iscrowd": 0}
    annotations = [{"id": i, "image_id": i % 3 + 1, "category_id": 16, "bbox": [i % 50, 1, 20, 20], **record}
                   for i in ids]
    annotations.append({"id": 901, "image_id": 1, "category_id": 17, "bbox": [1, 1, 9, 9], **record})
    annotations.append({"id": 902, "image_id": 1, "category_id": 16, "bbox": [1, 1, 9, 9], "area": 400, "iscrowd": 1})
    images = [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "width": 100, "height": 80} for i in (1, 2, 3)]
    categories = [{"id": 16, "name": "bird"}, {"id": 17, "name": "potted plant"}]
    if name != "bird":
        for one in annotations:
            one["category_id"] = 33 - one["category_id"]
    (folder / f"full_box_{k}shot_{name}_trainval.json").write_text(
        json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))


def test_coco_lists_bring_their_boxes(tmp_path):
    coco_list(tmp_path / "b", "bird", 3, [31, 32, 33])
    coco_list(tmp_path / "b", "potted plant", 3, [41, 42, 43, 44, 45])
    lists = TfaLists.find(tmp_path / "b")
    shots = read_tfa(lists)
    assert shots.names == ("bird", "potted plant")
    assert [shot.annotation_id for shot in shots["bird"]] == [31, 32, 33]  # in the file's order where none is too many
    assert len(shots["potted plant"]) == 3 == len({shot.image_id for shot in shots["potted plant"]})
    assert shots["bird"][0].image == "COCO_train2014_000000000002.jpg"


def test_coco_lists_of_2014_serve_for_the_images_of_2017(tmp_path):
    coco_list(tmp_path / "b", "bird", 2, [31, 32])
    images = [Image(i, 80, 100, file_name=f"train2017/{i:012d}.jpg") for i in (1, 2, 3)]
    records = [Annotation(i, i % 3 + 1, 3, (i, 1, 20, 20), 400) for i in (31, 32)]
    ours = Annotations(images, records, [Category(3, "bird")])
    shots = read_tfa(TfaLists.find(tmp_path / "b"), annotations=ours, ann_file="ours.json")
    assert [shot.image for shot in shots["bird"]] == ["train2017/000000000002.jpg", "train2017/000000000003.jpg"]
    shots.check_annotations(ours, "ours.json")
    ours.annotations.pop()
    with pytest.raises(UserError, match=r"ours\.json: has no 'bird' with the annotation id 32 in image 3"):
        read_tfa(TfaLists.find(tmp_path / "b"), annotations=ours, ann_file="ours.json")


def test_folders_without_lists(tmp_path):
    with pytest.raises(UserError, match="has no lists of TFA"):
        TfaLists.find(tmp_path)
    coco_list(tmp_path, "bird", 2, [31])
    coco_list(tmp_path, "bird", 1, [31])
    with pytest.raises(UserError, match="lists of 1, 2 shots, which of them is not said"):
        read_tfa(TfaLists.find(tmp_path))
    (tmp_path / "box_2shot_bird_train.txt").write_text(BIRDS)
    with pytest.raises(UserError, match="lists of VOC and of COCO"):
        TfaLists.find(tmp_path)


def saved(path: Path, change=lambda records: None) -> Path:
    """As MMFewShot's: the head first, an image twice (instance-wise), VOC's ids as text."""
    def image(number, name, boxes, labels):
        return {"id": number, "filename": name, "width": 100, "height": 80,
                "ann": {"bboxes": boxes, "labels": labels, "bboxes_ignore": [], "labels_ignore": []}}

    records = [{"CLASSES": ["bird", "bus", "cow"], "img_prefix": "data/VOCdevkit/"},
               image("2008_000003", "VOC2012/JPEGImages/2008_000003.jpg", [[1.0, 2.0, 30.0, 40.0]], [1]),
               image("000017", "VOC2007/JPEGImages/000017.jpg", [[1.0, 2.0, 30.0, 40.0], [5, 5, 9, 9]], [1, 0]),
               image("2008_000003", "VOC2012/JPEGImages/2008_000003.jpg", [[7.0, 2.0, 30.0, 40.0]], [1])]
    change(records)
    path.write_text(json.dumps(records, indent=4))
    return path


def test_a_saved_dataset_is_read_in_its_order(tmp_path):
    shots = read_saved_dataset(saved(tmp_path / "saved.json"))
    assert shots.names == ("bird", "bus")
    assert [(shot.image_id, shot.box) for shot in shots["bus"]] == [
        (2008000003, (1, 2, 30, 40)), (17, (1, 2, 30, 40)), (2008000003, (7, 2, 30, 40))]
    assert shots["bird"][0].image == "VOC2007/JPEGImages/000017.jpg" and shots["bird"][0].size == (100, 80)
    assert read_saved_dataset(tmp_path / "saved.json", ["bus"]).names == ("bus",)


@pytest.mark.parametrize(("change", "words"), [
    (lambda r: r.pop(0), "is no saved dataset of MMFewShot"),
    (lambda r: r[1].pop("width"), "is no saved dataset of MMFewShot"),
    (lambda r: r[1]["ann"].update(labels=[3]), r"record 1 \(VOC2012/.*\) has the label 3, the file has 3 classes"),
    (lambda r: r[1]["ann"].update(labels=[]), "record 1 .* has 1 boxes and 0 labels"),
    (lambda r: r[1]["ann"].update(bboxes=[[9, 9, 2, 2]]), "record 1 .* is no box"),
    (lambda r: r.__delitem__(slice(1, None)), "no classes among the shots"),
])
def test_mistakes_in_a_saved_dataset(tmp_path, change, words):
    with pytest.raises(UserError, match=words) as error:
        read_saved_dataset(saved(tmp_path / "saved.json", change))
    assert "saved.json" in str(error.value)


def test_a_class_without_saved_boxes(tmp_path):
    with pytest.raises(UserError, match=r"saved\.json: has no boxes of the class 'cow'"):
        read_saved_dataset(saved(tmp_path / "saved.json"), ["bird", "cow"])
    with pytest.raises(UserError, match="cannot read"):
        read_saved_dataset(tmp_path / "none.json")
