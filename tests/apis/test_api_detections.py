"""The result: indexing, files, pictures, and what supervision and pycocotools make of it."""

import json

import numpy as np
import pytest
import supervision
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovd.apis.detections import Detections
from ovd.errors import UserError
from ovd.evaluation.pictures import readable_scale


@pytest.fixture(scope="module")
def found(loaded, files) -> Detections:
    return loaded.detect(files[10], threshold=0.3)


def test_parts_of_a_result(found, files):
    assert len(found) == len(found.scores) == len(found.rles) == len(list(found)) > 5
    assert (np.diff(found.scores) <= 0).all() and found.scores.dtype == found.boxes.dtype == np.float32
    assert found.image_size == (192, 192) and found.source == str(files[10])
    one = found[2]
    assert (one.name, one.label, one.rle) == (found.names[2], found.labels[2], found.rles[2])
    for some in (found[2:5], found[[2, 3, 4]], found[np.isin(np.arange(len(found)), [2, 3, 4])]):
        assert some.names == found.names[2:5] and some.rles == found.rles[2:5] and len(some) == 3
    assert len(found[[]]) == 0 and len(found.above(1.0)) == 0
    assert found[-1].name == found.names[-1]
    assert found.above(float(found.scores[3])).names == found.names[:4]
    with pytest.raises(IndexError):
        found[len(found)]


def test_the_masks_are_coco_run_lengths(found):
    masks = found.masks()
    assert masks.dtype == bool and masks.shape == (len(found), 192, 192)
    for one, rle in zip(masks, found.rles):
        assert mask.area({**rle, "counts": rle["counts"].encode()}) == one.sum() > 20
        assert mask.encode(np.asfortranarray(one.astype(np.uint8)))["counts"].decode() == rle["counts"]


def test_supervision_has_all_of_it(found):
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections) and len(theirs) == len(found)
    assert np.array_equal(theirs.xyxy, found.boxes) and np.array_equal(theirs.confidence, found.scores)
    assert np.array_equal(theirs.class_id, found.labels) and theirs["class_name"].tolist() == found.names
    assert np.array_equal(theirs.mask, found.masks())
    kept = theirs[theirs.confidence > 0.9]
    assert len(kept) == (found.scores > 0.9).sum()
    scene = supervision.BoxAnnotator().annotate(np.zeros((192, 192, 3), np.uint8), kept)
    assert scene.any()
    empty = found[[]].to_supervision()
    assert len(empty) == 0 and len(supervision.Detections.merge([empty, theirs])) == len(theirs)


def test_coco_evaluates_it_as_perfect_against_itself(found):
    ids = {name: 10 + number for number, name in enumerate(sorted(set(found.names)))}
    records = found.to_coco(7, ids)
    annotations = [{**record, "id": number, "iscrowd": 0, "area": record["bbox"][2] * record["bbox"][3]}
                   for number, record in enumerate(records, 1)]
    truth = COCO()
    truth.dataset = {"info": {}, "images": [{"id": 7, "height": 192, "width": 192}], "annotations": annotations,
                     "categories": [{"id": number, "name": name} for name, number in ids.items()]}
    truth.createIndex()
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(records))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)
    assert found.to_coco(7)[0]["category_id"] == found.labels[0] + 1
    with pytest.raises(UserError, match="category_ids has no class"):
        found.to_coco(7, {"zebra": 1})


def test_the_json_has_all_of_it(found, tmp_path):
    written = json.loads(found.save(tmp_path / "new" / "found.json").read_text())
    assert (written["image"], written["height"], written["width"]) == (found.source, 192, 192)
    assert [one["name"] for one in written["detections"]] == found.names
    np.testing.assert_allclose([one["box"] for one in written["detections"]], found.boxes, atol=1e-3)
    np.testing.assert_allclose([one["score"] for one in written["detections"]], found.scores, atol=1e-6)
    assert [one["mask"] for one in written["detections"]] == list(found.rles)
    again = Detections.from_dict(written, found.classes)
    assert again.to_dict() == found.to_dict() and again.labels.tolist() == found.labels.tolist()
    assert (again.masks() == found.masks()).all()
    with pytest.raises(UserError, match="the classes do not have"):
        Detections.from_dict(written, ("zebra",))


@pytest.mark.parametrize("suffix, kind", [(".png", "PNG"), (".jpg", "JPEG")])
def test_pictures_show_boxes_in_the_colours_of_the_classes(found, files, tmp_path, suffix, kind):
    with Image.open(found.save(tmp_path / f"found{suffix}")) as picture:
        assert picture.format == kind
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    scale = readable_scale(np.zeros((192, 192, 3)))
    assert pixels.shape == (192 * scale, 192 * scale, 3)
    for one in found:
        distance = np.abs(pixels - found.colours[one.label]).sum(axis=2)
        assert (distance < (10 if suffix == ".png" else 60)).sum() > 20, one.name
    plain = np.asarray(found[[]].plot())
    original = Image.open(files[10]).resize((192 * scale, 192 * scale), Image.Resampling.BICUBIC)
    assert np.array_equal(plain, np.asarray(original))
    assert np.array_equal(np.asarray(found.plot(threshold=1.0)), plain)


def test_what_cannot_be_is_said(found, files, tmp_path):
    with pytest.raises(UserError, match=r"write a \.json, or a picture"):
        found.save(tmp_path / "found.txt")
    bare = Detections([[0, 0, 9, 9]], [0.5], [0], ("zebra",), (20, 20))
    with pytest.raises(UserError, match="no image to draw on"):
        bare.plot()
    with pytest.raises(UserError, match="there are no masks"):
        bare.masks()
    assert "segmentation" not in bare.to_coco(1)[0] and bare.to_supervision().mask is None
