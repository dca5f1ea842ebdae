"""Cached regions follow the image: the same boxes as if they had been annotated, each with its own embedding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose, RandomResize
from mmcv.transforms import RandomFlip as PlainRandomFlip
from mmcv.transforms import Resize as PlainResize
from mmdet.datasets.transforms import (
    Mosaic,
    PackDetInputs,
    Pad,
    PhotoMetricDistortion,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    Resize,
)
from mmdet.structures.bbox import HorizontalBoxes

from ovd.data.transforms import LoadRegions, PackRegions, check_followed, move_boxes
from ovd.errors import UserError
from ovd.stores.shards import Regions

HEIGHT, WIDTH, DIM = 60, 90, 4


class OneImageStore:
    """Stands for a region store: the same regions for image 7, with the row number in each embedding."""

    def __init__(self, boxes: np.ndarray, scores: np.ndarray | None = None) -> None:
        rows = np.arange(len(boxes), dtype=np.float16)[:, None].repeat(DIM, 1)
        self.regions = Regions(boxes, np.zeros(len(boxes), np.float32) if scores is None else scores, rows)

    def view(self, image_id: int) -> Regions:
        assert image_id == 7
        return self.regions


def random_boxes(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 1, (count, 2, 2)) * [WIDTH, HEIGHT], axis=1)
    return corners.reshape(-1, 4).astype(np.float32)


def run(steps, boxes, seed=0, packer=None) -> dict:
    """Annotations that equal the regions, labelled by row, through ``steps``."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    results = {"img": image, "img_id": 7, "img_shape": (HEIGHT, WIDTH), "ori_shape": (HEIGHT, WIDTH),
               "region_store": OneImageStore(boxes), "gt_bboxes": HorizontalBoxes(boxes.copy()),
               "gt_bboxes_labels": np.arange(len(boxes)), "gt_ignore_flags": np.zeros(len(boxes), bool)}
    pipeline = [LoadRegions(), *steps, packer or PackRegions()]
    check_followed(pipeline)
    np.random.seed(seed)  # noqa: NPY002 (what transforms draw from)
    return Compose(pipeline)(results)


def same_as_annotated(packed) -> None:
    sample = packed["data_samples"]
    rows = sample.regions.embeddings[:, 0].long()
    assert torch.equal(rows, sample.gt_instances.labels)
    assert torch.allclose(sample.regions.bboxes, sample.gt_instances.bboxes.tensor, atol=2e-3)
    assert sample.regions.bboxes.dtype == torch.float32
    assert sample.regions.embeddings.shape == (len(rows), DIM)


PIPELINES = {
    "nothing": [],
    "resize": [Resize(scale=(120, 80), keep_ratio=True)],
    "stretch": [Resize(scale=(133, 47), keep_ratio=False)],
    "flip": [RandomFlip(prob=1.0)],
    "flips": [RandomFlip(prob=[0.3, 0.3, 0.3], direction=["horizontal", "vertical", "diagonal"])],
    "crop": [RandomCrop(crop_size=(40, 30), allow_negative_crop=True)],
    "pad": [Resize(scale=(77, 77), keep_ratio=True), Pad(size_divisor=32)],
    "large scale jitter": [
        RandomResize(scale=(64, 64), ratio_range=(0.1, 2.0), keep_ratio=True, resize_type=Resize),
        RandomCrop(crop_size=(64, 64), crop_type="absolute", allow_negative_crop=True),
        RandomFlip(prob=0.5), Pad(size=(64, 64))],
    "everything": [
        PhotoMetricDistortion(), RandomFlip(prob=0.5, direction="vertical"),
        RandomResize(scale=(80, 100), ratio_range=(0.5, 1.5), keep_ratio=False, resize_type=Resize),
        RandomCrop(crop_size=(0.4, 0.4), crop_type="relative_range", allow_negative_crop=True), RandomFlip(prob=0.5),
        Resize(scale=(128, 96), keep_ratio=True)],
}


@pytest.mark.parametrize("name", PIPELINES)
@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 12), seed=st.integers(0, 10_000))
def test_regions_follow_the_image_as_annotations_do(name, count, seed):
    same_as_annotated(run(PIPELINES[name], random_boxes(count, seed), seed))


def test_rows_that_a_crop_drops_take_their_embeddings_with_them():
    boxes = np.float32([[0, 0, 10, 10], [60, 40, 80, 58], [5, 5, 70, 50], [81, 0, 90, 9]])
    dropped = set()
    for seed in range(20):
        packed = run([RandomCrop(crop_size=(30, 30), allow_negative_crop=True)], boxes, seed)
        same_as_annotated(packed)
        dropped.add(len(boxes) - len(packed["data_samples"].regions))
    assert len(dropped) > 1


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 20), limit=st.integers(0, 25), seed=st.integers(0, 9999))
def test_a_random_choice_of_regions_keeps_rows_together(count, limit, seed):
    boxes = random_boxes(count, seed)
    regions = run([], boxes, seed, PackRegions(max_regions=limit))["data_samples"].regions
    rows = regions.embeddings[:, 0].long()
    assert len(rows) == min(count, limit) == len(rows.unique())
    assert np.array_equal(regions.bboxes.numpy(), boxes[rows.numpy()])


def test_the_choice_of_regions_comes_from_the_seed():
    packed = [run([], random_boxes(20, 0), seed, PackRegions(max_regions=5)) for seed in (0, 0, 1, 2, 3)]
    chosen = [one["data_samples"].regions.embeddings[:, 0].tolist() for one in packed]
    assert chosen[0] == chosen[1]
    assert len(set(map(tuple, chosen))) > 2


def test_small_regions_may_be_dropped():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 3, 20], [0, 0, 4.5, 4.5], [0, 0, 20, 4]])
    regions = run([], boxes, 0, PackRegions(min_size=4))["data_samples"].regions
    assert regions.embeddings[:, 0].tolist() == [0, 2]


def test_top_k_takes_the_highest_scores_in_any_order_of_the_store():
    boxes = random_boxes(5, 0)
    results = {"img_id": 7, "region_store": OneImageStore(boxes, np.float32([0.1, 0.9, 0.5, 0.9, 0.2]))}
    LoadRegions(top_k=3).transform(results)
    assert results["region_embeddings"][:, 0].tolist() == [1, 3, 2]
    assert np.array_equal(results["region_boxes"], boxes[[1, 3, 2]])
    LoadRegions(top_k=9).transform(results)
    assert len(results["region_boxes"]) == 5


def test_boxes_move_by_scale_flip_and_shift():
    matrix = np.float32([[-2, 0, 100], [0, 0.5, -3], [0, 0, 1]])
    boxes, kept = move_boxes(np.float32([[10, 20, 30, 40], [60, 0, 70, 90]]), matrix, (20, 90))
    assert boxes.tolist() == [[40, 7, 80, 17]]
    assert kept.tolist() == [0]


def test_packed_regions_do_not_share_memory_with_the_store():
    store = OneImageStore(random_boxes(3, 0))
    store.regions.embeddings.flags.writeable = store.regions.boxes.flags.writeable = False
    results = {"img": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "img_id": 7, "img_shape": (HEIGHT, WIDTH),
               "region_store": store}
    regions = PackRegions()(LoadRegions()(results))["data_samples"].regions
    regions.bboxes.zero_()
    regions.embeddings.zero_()
    assert store.regions.boxes.any()
    assert store.regions.embeddings.any()


def with_pyramid(steps, regions, blocks, seed=0, packer=None) -> dict:
    results = {"img": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "img_id": 7, "img_shape": (HEIGHT, WIDTH),
               "region_store": OneImageStore(regions), "block_store": OneImageStore(blocks),
               "global_store": OneImageStore(np.float32([[0, 0, WIDTH, HEIGHT]]))}
    np.random.seed(seed)  # noqa: NPY002 (what transforms draw from)
    return Compose([LoadRegions(), *steps, packer or PackRegions()])(results)["data_samples"]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 12), seed=st.integers(0, 10_000))
def test_blocks_follow_the_image_as_regions_do(count, seed):
    boxes = random_boxes(count, seed)
    sample = with_pyramid(PIPELINES["everything"], boxes, boxes, seed)
    assert torch.equal(sample.blocks.bboxes, sample.regions.bboxes)
    assert torch.equal(sample.blocks.embeddings, sample.regions.embeddings)
    assert sample.image_embedding.shape == (DIM,)


def test_a_random_choice_of_blocks_leaves_that_of_regions_as_it_was():
    regions, blocks = random_boxes(20, 0), random_boxes(15, 1)
    sample = with_pyramid([], regions, blocks, 3, PackRegions(max_regions=5, max_blocks=4))
    alone = run([], regions, 3, PackRegions(max_regions=5))["data_samples"]
    assert torch.equal(sample.regions.bboxes, alone.regions.bboxes)
    rows = sample.blocks.embeddings[:, 0].long()
    assert len(rows.unique()) == 4
    assert np.array_equal(sample.blocks.bboxes.numpy(), blocks[rows.numpy()])


def test_an_image_that_was_skipped_has_no_embedding_and_is_named():
    empty = OneImageStore(random_boxes(0, 0))
    empty.path = "globals/train"
    with pytest.raises(UserError, match="globals/train: has no embedding of image 7"):
        LoadRegions()({"img_id": 7, "region_store": OneImageStore(random_boxes(2, 0)), "global_store": empty})


def test_without_a_pyramid_samples_have_regions_only():
    sample = run([], random_boxes(3, 0))["data_samples"]
    assert "blocks" not in sample and "image_embedding" not in sample


@pytest.mark.parametrize(("steps", "message"), [
    ([LoadRegions(), RandomAffine(), PackRegions()], "RandomAffine"),
    ([LoadRegions(), Mosaic(), PackRegions()], "Mosaic"),
    ([LoadRegions(), PlainResize(scale=(5, 5)), PackRegions()], "mmcv.*Resize"),
    ([LoadRegions(), PlainRandomFlip(prob=0.5), PackRegions()], "mmcv.*RandomFlip"),
    ([LoadRegions(), RandomResize(scale=(5, 5), resize_type=PlainResize), PackRegions()], "mmcv.*Resize"),
    ([LoadRegions(), RandomCrop((20, 20)), Pad(size=(30, 30)), PackRegions()], "Pad after RandomCrop"),
    ([LoadRegions(), RandomCrop((20, 20)), Pad(size_divisor=32), PackRegions()], "Pad after RandomCrop"),
    ([LoadRegions(), RandomCrop((0.5, 0.5), "relative"), Pad(size=(30, 30)), PackRegions()], "Pad after RandomCrop"),
    ([LoadRegions(), Resize(scale=(5, 5)), PackDetInputs()], "PackRegions as the last"),
    ([Resize(scale=(5, 5)), PackRegions()], "LoadRegions before"),
])
def test_pipelines_that_regions_cannot_follow_are_refused(steps, message):
    with pytest.raises(UserError, match=message):
        check_followed(steps)


def test_pipelines_without_regions_may_hold_anything():
    check_followed([RandomAffine(), PackDetInputs()])
    check_followed([])
