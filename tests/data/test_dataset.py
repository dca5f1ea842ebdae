"""The dataset: labels by split, masks, crowds, image files, and region stores that have to fit."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmengine.dataset import ClassBalancedDataset, pseudo_collate
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from ovd.data.dataset import OpenVocabDataset
from ovd.data.transforms import LoadRegions, PackRegions
from ovd.errors import UserError
from ovd.stores.shards import Regions, RegionStore
from ovd.vocabulary.splits import Split, get_split

SPLIT = Split("pets", "custom", base=("dog", "cat"), novel=("newt",))
CATEGORIES = [{"id": 90, "name": "newt"}, {"id": 4, "name": "cat"}, {"id": 17, "name": "dog"}, {"id": 5, "name": "van"}]
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
SIZE = (40, 60)  # height, width
DIM = 4


def annotation(number: int, image_id: int, category_id: int, **fields) -> dict:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [10, 10, 20, 20], "area": 400,
            "iscrowd": 0, "segmentation": SQUARE, **fields}


@pytest.fixture
def data_root(tmp_path):
    """Three images: one with a dog, a cat and a crowd of cats, one with a van (of no class), and an empty one."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8))
    crowd = {"counts": [0, 40 * 30, 40 * 30], "size": list(SIZE)}
    write(tmp_path, annotations=[
        annotation(1, 30, 17), annotation(2, 30, 4, bbox=[5.5, 6, 30, 20]),
        annotation(3, 30, 4, iscrowd=1, bbox=[0, 0, 30, 40], segmentation=crowd), annotation(4, 10, 5)])
    SPLIT.save(tmp_path / "split.json")
    return tmp_path


def write(root, name="train.json", **parts) -> None:
    content = {"images": [{"id": 30, "file_name": "a.png", "height": 40, "width": 60},
                          {"id": 10, "file_name": "b.png", "height": 40, "width": 60},
                          {"id": 20, "file_name": "c.png", "height": 40, "width": 60}],
               "annotations": [], "categories": CATEGORIES, **parts}
    (root / name).write_text(json.dumps(content))


def make(root, **kwargs) -> OpenVocabDataset:
    return OpenVocabDataset(**{"ann_file": "train.json", "split": "split.json", "data_root": str(root),
                               "data_prefix": {"img": "images"}, **kwargs})


def make_store(root, image_ids=(10, 20, 30), name="regions", config=None) -> str:
    """A store in which region r of image i is box (r, r, r + i, r + 8) with the unit vector of axis r."""
    writer = RegionStore.create(root / name, "regions", image_ids, dim=DIM)
    for shard in writer.missing():
        writer.write(shard, {
            image_id: Regions(np.float32([[row, row, row + image_id, row + 8] for row in range(DIM)]),
                              np.linspace(1, 0, DIM, dtype=np.float32), np.eye(DIM, dtype=np.float16))
            for image_id in writer.image_ids(shard)})
    writer.finish("embed-regions", config or {}, {})
    return name


def steps(with_mask=True) -> list:
    return [LoadImageFromFile(), LoadAnnotations(with_bbox=True, with_mask=with_mask)]


def region_steps() -> list:
    return [*steps(), LoadRegions(), Resize(scale=(120, 80), keep_ratio=True), RandomFlip(prob=0.5), PackRegions()]


def test_stores_of_blocks_and_whole_images_are_read_by_image_id(data_root):
    stores = {"region_store": make_store(data_root), "block_store": make_store(data_root, name="blocks", config={
        "what": "blocks"}), "global_store": make_store(data_root, name="globals", config={"what": "globals"})}
    sample = make(data_root, pipeline=[*steps(), LoadRegions(top_k=2), PackRegions()], **stores)[1]["data_samples"]
    assert sample.blocks.bboxes.tolist() == [[row, row, row + 10, row + 8] for row in range(DIM)]
    assert sample.image_embedding.tolist() == [1, 0, 0, 0]
    assert len(sample.regions) == 2


@pytest.mark.parametrize(("change", "says"), [
    ({"block_store": "regions"}, "regions: is a store of objects, and block_store needs blocks.*--what blocks"),
    ({"region_store": "blocks"}, "blocks: is a store of blocks, and region_store needs objects"),
    ({"block_store": "few"}, "2 of 3 images are not in its block store, the first is 10"),
])
def test_stores_of_another_level_or_of_other_images_are_refused(data_root, change, says):
    make_store(data_root)
    make_store(data_root, name="blocks", config={"what": "blocks"})
    make_store(data_root, image_ids=(30,), name="few", config={"what": "blocks"})
    with pytest.raises(UserError, match=says):
        make(data_root, pipeline=region_steps(), **{"region_store": "regions", "block_store": "blocks", **change})


def test_labels_are_positions_in_the_split(data_root):
    dataset = make(data_root)
    assert [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))] == [30, 10, 20]
    record = dataset.get_data_info(0)
    assert [instance["bbox_label"] for instance in record["instances"]] == [0, 1, 1]
    boxes = [instance["bbox"] for instance in record["instances"]]
    assert boxes == [[10, 10, 30, 30], [5.5, 6, 35.5, 26], [0, 0, 30, 40]]
    assert [instance["ignore_flag"] for instance in record["instances"]] == [0, 0, 1]
    assert record["instances"][0]["mask"] == SQUARE
    assert record["img_path"] == str(data_root / "images" / "a.png")
    assert (record["height"], record["width"]) == SIZE
    assert dataset.get_data_info(1)["instances"] == []


def test_meta_information_names_the_split(data_root):
    meta = make(data_root).metainfo
    assert meta["classes"] == ("dog", "cat", "newt")
    assert (meta["split"], meta["num_base"], len(set(meta["palette"]))) == ("pets", 2, 3)


def test_the_name_of_a_split_is_not_taken_for_a_file(data_root, monkeypatch, capfd):
    make(data_root)
    (data_root / "pets").write_text("of\nanother kind\n")
    monkeypatch.chdir(data_root)
    assert make(data_root).metainfo["split"] == "pets"
    assert "meta file" not in "".join(capfd.readouterr())


def test_split_by_name_and_rewritten_ids(data_root):
    names = make(data_root, ann_file=_coco(data_root), split="48_17", test_mode=True)
    assert names.get_cat_ids(0) == [0, 48]


def _coco(root) -> str:
    classes = get_split("48_17").classes
    write(root, "coco.json", categories=[{"id": label, "name": name} for label, name in enumerate(classes)],
          annotations=[annotation(1, 30, 0), annotation(2, 30, 48)])
    return "coco.json"


def test_filter_drops_empty_and_small_images_in_training_only(data_root):
    empty = {"filter_cfg": {"filter_empty_gt": True}}
    assert len(make(data_root, **empty)) == 1
    assert len(make(data_root, test_mode=True, **empty)) == 3
    with pytest.raises(UserError, match="no image of 3 is left"):
        make(data_root, filter_cfg={"min_size": 41})
    assert len(make(data_root, filter_cfg={"min_size": 40})) == 3


def test_polygons_and_crowd_run_lengths_become_masks(data_root):
    sample = make(data_root, pipeline=[*steps(), PackDetInputs()])[0]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [0, 1]
    masks = sample.gt_instances.masks.to_ndarray()
    assert masks.shape == (2, *SIZE)
    assert masks[0, 15:25, 15:25].all()
    assert not masks[0, :9].any()
    ignored = sample.ignored_instances
    assert ignored.labels.tolist() == [1]
    crowd = ignored.masks.to_ndarray()[0]
    assert crowd[:, :30].all()
    assert not crowd[:, 30:].any()


def test_lvis_images_lie_in_two_folders(data_root):
    for folder, name in (("train2017", "a.png"), ("val2017", "b.png")):
        (data_root / "images" / folder).mkdir()
        (data_root / "images" / name).rename(data_root / "images" / folder / name)
    address = "http://images.cocodataset.org"
    write(data_root, images=[{"id": 1, "coco_url": f"{address}/train2017/a.png", "height": 40, "width": 60},
                             {"id": 2, "coco_url": f"{address}/val2017/b.png", "height": 40, "width": 60}])
    dataset = make(data_root, pipeline=[LoadImageFromFile()])
    assert [dataset[index]["img_path"][-13:] for index in (0, 1)] == ["ain2017/a.png", "val2017/b.png"]


def test_serialised_or_not_and_pickled_datasets_give_the_same(data_root):
    store = make_store(data_root)
    expected = None
    for dataset in (make(data_root, region_store=store, pipeline=region_steps()),
                    make(data_root, region_store=store, pipeline=region_steps(), serialize_data=False)):
        for copy in (dataset, pickle.loads(pickle.dumps(dataset))):
            np.random.seed(0)  # noqa: NPY002 (what transforms draw from)
            packed = copy[0]
            boxes = packed["data_samples"].gt_instances.bboxes.tensor
            expected = boxes if expected is None else expected
            assert torch.equal(boxes, expected)
            assert packed["data_samples"].regions.embeddings.shape == (DIM, DIM)


def test_repeat_factor_sampling_sees_the_labels(data_root):
    dataset = make(data_root, filter_cfg={"filter_empty_gt": True})
    assert dataset.get_cat_ids(0) == [0, 1, 1]
    assert len(ClassBalancedDataset(dataset, oversample_thr=4.0)) == 2  # sqrt(4 / 1) = 2


@pytest.mark.parametrize("workers", [0, 2])
def test_regions_reach_the_batch_by_image_id(data_root, workers):
    dataset = make(data_root, region_store=make_store(data_root), pipeline=[
        *steps(), LoadRegions(), Resize(scale=(120, 80), keep_ratio=True), PackRegions()])
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=pseudo_collate)
    batch = next(iter(loader))
    for sample in batch["data_samples"]:
        rows = sample.regions.embeddings.float().argmax(1).tolist()
        boxes = [[row, row, min(row + sample.img_id, 60), row + 8] for row in rows]
        assert sample.regions.bboxes.tolist() == [[2 * value for value in box] for box in boxes]


def test_regions_must_cover_the_images_that_are_used(data_root):
    store = make_store(data_root, image_ids=(30, 10))
    with pytest.raises(UserError, match=r"1 of 3 images.*first is 20"):
        make(data_root, region_store=store, pipeline=region_steps())
    assert len(make(data_root, region_store=store, pipeline=region_steps(), filter_cfg={"filter_empty_gt": True})) == 1


def test_a_pipeline_that_wants_regions_needs_a_store(data_root):
    with pytest.raises(UserError, match="no region_store"):
        make(data_root, pipeline=region_steps())
    with pytest.raises(UserError, match="nothing-here"):
        make(data_root, pipeline=region_steps(), region_store="nothing-here")


def test_a_store_of_proposals_is_refused(data_root):
    writer = RegionStore.create(data_root / "proposals", "proposals", [10, 20, 30])
    writer.write(0, {image_id: Regions(np.float32([[0, 0, 5, 5]]), np.float32([1])) for image_id in (10, 20, 30)})
    writer.finish("proposals", {}, {})
    with pytest.raises(UserError, match="no embeddings"):
        make(data_root, region_store="proposals", pipeline=region_steps())


def test_novel_annotations_are_refused_in_training(data_root):
    write(data_root, annotations=[annotation(1, 20, 90)])
    with pytest.raises(UserError, match=r"image 20.*'newt'.*ovd build-zsl"):
        make(data_root)
    assert make(data_root, test_mode=True).get_cat_ids(2) == [2]


def test_annotations_of_another_dataset_are_refused(data_root):
    write(data_root, categories=[{"id": 1, "name": "dog"}])
    with pytest.raises(UserError, match=r"1 of 2 classes of split pets.*'cat'"):
        make(data_root)
    write(data_root, categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}])
    assert len(make(data_root)) == 3  # novel categories may be absent from a training file
    with pytest.raises(UserError, match="'newt'"):
        make(data_root, test_mode=True)


def test_annotations_without_masks_serve_boxes_only(data_root):
    plain = annotation(1, 30, 17)
    del plain["segmentation"]
    write(data_root, annotations=[plain])
    with pytest.raises(UserError, match="without a mask"):
        make(data_root, pipeline=[*steps(), PackDetInputs()])
    sample = make(data_root, pipeline=[*steps(with_mask=False), PackDetInputs()])[0]["data_samples"]
    assert sample.gt_instances.bboxes.tensor.tolist() == [[10, 10, 30, 30]]


def test_missing_images_are_refused_when_the_dataset_is_built(data_root):
    (data_root / "images" / "c.png").unlink()
    with pytest.raises(UserError, match=r"c\.png: no such image \(image 20"):
        make(data_root)
    with pytest.raises(UserError, match="data_prefix"):
        make(data_root, data_prefix={"img": "elsewhere"})


def test_an_image_of_another_size_than_annotated_is_refused(data_root):
    path = data_root / "images" / "a.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", SIZE[::-1]).save(path, exif=exif)
    write(data_root, images=[{"id": 30, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}])
    with pytest.raises(UserError, match=r"a\.jpg: is 40 x 60 as decoded.*says 60 x 40.*color_ignore_orientation"):
        make(data_root, pipeline=[*steps(), PackDetInputs()])[0]
    as_stored = LoadImageFromFile(color_type="color_ignore_orientation")
    sample = make(data_root, pipeline=[as_stored, *steps()[1:], PackDetInputs()])[0]["data_samples"]
    assert sample.ori_shape == SIZE


def test_a_cut_image_is_refused_when_it_is_read(data_root):
    path = data_root / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.png"):
        make(data_root, pipeline=[LoadImageFromFile()])[0]
