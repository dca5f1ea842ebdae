"""Episodes: who is in them, apart and once where possible, and the same in a resumed run as in one that was not."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomCrop, RandomFlip, Resize
from mmdet.models import DetDataPreprocessor
from mmengine.dataset import InfiniteSampler
from mmengine.logging import MMLogger

from ovd.data.dataset import OpenVocabDataset
from ovd.data.episodes import EpisodeDataset, episode_classes, one_episode
from ovd.engine.runner import DetectionRunner
from ovd.errors import UserError
from ovd.vocabulary.splits import Split

SPLIT = Split("six", "custom", base=tuple("abcdef"), novel=("z",))
OF_CLASS = {"a": range(12), "b": range(6, 18), "c": range(0, 18, 2), "d": (1, 3), "e": (5,), "f": ()}
STEPS = [LoadImageFromFile(), LoadAnnotations(with_bbox=True), Resize(scale=(48, 32), keep_ratio=True),
         RandomFlip(prob=0.5), PackDetInputs()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """18 images of two sizes; of the classes a, b, c many have boxes, of d two, of e one, of f none."""
    root = tmp_path_factory.mktemp("episodes")
    rng = np.random.default_rng(0)
    images = [{"id": 100 + i, "file_name": f"{i}.png", "height": 32, "width": 48 if i % 2 else 40} for i in range(18)]
    for image in images:
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        cv2.imwrite(str(root / image["file_name"]), pixels)
    boxes = []
    for label, name in enumerate(SPLIT.classes[:-1]):
        for i in OF_CLASS[name]:
            for number in range(2):
                boxes.append({"id": len(boxes) + 1, "image_id": 100 + i, "category_id": label, "area": 48,
                              "bbox": [2 + label, 3 + 10 * number, 12 - 8 * number, 8], "iscrowd": 0})
        boxes.append({**boxes[0], "id": len(boxes) + 1, "category_id": label, "iscrowd": 1})
    (root / "train.json").write_text(json.dumps({
        "images": images, "annotations": boxes, "categories": [
            {"id": i, "name": name} for i, name in enumerate(SPLIT.classes)]}))
    SPLIT.save(root / "split.json")
    return root


def images_of(root, pipeline=STEPS) -> dict:
    return {"type": OpenVocabDataset, "ann_file": "train.json", "split": "split.json", "data_root": str(root),
            "pipeline": pipeline}


def make(root, pipeline=STEPS, **kwargs) -> EpisodeDataset:
    return EpisodeDataset(**{"dataset": images_of(root, pipeline), "n_way": 3, "k_shot": 2, "n_query": 2, **kwargs})


@pytest.fixture(scope="module")
def episodes(root):
    return make(root)


def test_queries_come_first_and_supports_have_one_box(root):
    dataset = make(root, n_way=2, k_shot=3)
    for index in range(len(dataset)):
        samples = dataset[index]["data_samples"]
        assert [sample.role for sample in samples] == ["query"] * 4 + ["support"] * 6
        for sample in samples:
            assert set(sample.gt_instances.labels.tolist()) <= {0, 1}
            assert sample.episode_classes == tuple(SPLIT.classes[label] for label in sample.episode_labels)
        assert samples[0].episode_labels[0] == dataset.anchors[index]
        assert [sample.gt_instances.labels.tolist() for sample in samples[4:]] == [[0]] * 3 + [[1]] * 3
        for position in range(2):
            for sample in samples[2 * position:2 * position + 2]:
                assert position in sample.gt_instances.labels


def test_boxes_of_other_classes_can_keep_a_label_of_their_own(root):
    dropped, kept = make(root, n_way=2), make(root, n_way=2, others="keep")
    episode = dropped.draw(0, np.random.default_rng(1))
    seen = set()
    for plain, full in zip(dropped.load(episode)["data_samples"], kept.load(episode)["data_samples"]):
        labels = full.gt_instances.labels
        assert labels[labels < 2].tolist() == plain.gt_instances.labels.tolist()
        assert not set((labels[labels >= 2] - 2).tolist()) & set(episode.classes)
        seen |= set(labels.tolist())
    assert max(seen) >= 2


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_supports_are_apart_from_their_queries_and_images_are_used_once_where_there_are_enough(episodes, index, seed):
    episode = episodes.draw(index, np.random.default_rng(seed))
    assert len(set(episode.classes)) == 3 and episode.classes[0] == episodes.anchors[index]
    for position, label in enumerate(episode.classes):
        queries = [image for at, image in episode.queries if at == position]
        supports = [image for at, image, _ in episode.supports if at == position]
        images = set(OF_CLASS[SPLIT.classes[label]])
        assert len(queries) == len(supports) == 2 and images.issuperset(queries + supports)
        assert len(images) == 1 or not set(queries) & set(supports)
        if len(images) >= 4:
            assert len(set(queries + supports)) == 4
        for image, instance in [(image, one) for at, image, one in episode.supports if at == position]:
            chosen = episodes.dataset.get_instances(image)[instance]
            assert chosen["bbox_label"] == label and not chosen["ignore_flag"]
    chosen = [*episode.queries, *((at, image) for at, image, _ in episode.supports)]
    used = {image for _, image in chosen}
    for image in used:
        users = {at for at, one in chosen if one == image}
        exhausted = [at for at in users if used.issuperset(OF_CLASS[SPLIT.classes[episode.classes[at]]])]
        assert len(users) == 1 or exhausted  # taken twice only where a class has no other image left


def test_number_of_shots_is_drawn_per_episode(root):
    dataset = make(root, k_shot=(1, 3), n_query=1)
    drawn = Counter(len(dataset.draw(0, np.random.default_rng(seed)).supports) for seed in range(60))
    assert set(drawn) == {3, 6, 9} and min(drawn.values()) > 8


def test_scarce_classes_are_said_once(root, tmp_path):
    log = tmp_path / "log"
    MMLogger.get_instance("episodes", log_file=str(log))
    dataset = make(root)
    dataset[3], dataset[4]
    said = [line for line in log.read_text().splitlines() if "episodes:" in line]
    assert len(said) == 2 and "replacement: d, e" in said[0] and "1 of 6 classes have no box" in said[1]


def test_classes_can_be_held_out(root):
    assert episode_classes("abcdef", 3, "train") == tuple("abde")
    assert episode_classes("abcdef", 3, "held_out") == tuple("cf")
    train, held = make(root, held_out=2, n_way=2), make(root, held_out=2, part="held_out", n_way=2)
    assert set(train.anchors) == {0, 2, 4} and set(held.anchors) == {1, 3}


def test_rare_classes_are_repeated(root):
    dataset = make(root, oversample_thr=0.5)
    expected = np.sqrt(np.maximum(1, 0.5 / (np.array([12, 12, 9, 2, 1]) / 18)))
    np.testing.assert_allclose(dataset.repeats, expected)
    assert Counter(dataset.anchors.tolist()) == {0: 1, 1: 1, 2: 1, 3: 3, 4: 3}
    others = Counter(label for seed in range(400) for label in dataset.draw(0, np.random.default_rng(seed)).classes[1:])
    assert others[4] > 1.2 * others[2]


def test_small_boxes_are_no_supports_where_there_are_larger_ones(root):
    dataset = make(root, min_support_size=6)
    for seed in range(10):
        for _, image, instance in dataset.draw(0, np.random.default_rng(seed)).supports:
            x1, y1, x2, y2 = dataset.dataset.get_instances(image)[instance]["bbox"]
            assert min(x2 - x1, y2 - y1) >= 6


def stream(root, workers: int, skip: int, count: int) -> list:
    loader = DetectionRunner.build_dataloader({
        "batch_size": 1, "num_workers": workers, "collate_fn": {"type": "one_episode"},
        "sampler": {"type": InfiniteSampler, "shuffle": True},
        "dataset": {"type": EpisodeDataset, "n_way": 3, "k_shot": (1, 3), "n_query": 1, "dataset": images_of(root)},
    }, seed=5)
    loader.sampler.skip(skip)
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_episodes_of_one_that_was_not_interrupted(root, workers):
    np.random.seed(workers)  # noqa: NPY002 - whatever state the process is in
    whole, resumed = stream(root, 0, 0, 5), stream(root, workers, 3, 2)
    for batch, again in zip(whole[3:], resumed):
        assert all(map(torch.equal, batch["inputs"], again["inputs"]))
        for sample, twin in zip(batch["data_samples"], again["data_samples"]):
            assert sample.metainfo.keys() == twin.metainfo.keys() and sample.img_path == twin.img_path
            assert torch.equal(sample.gt_instances.bboxes.tensor, twin.gt_instances.bboxes.tensor)
    assert len({batch["data_samples"][0].img_path for batch in whole}) > 1


def test_an_episode_is_a_batch_for_the_preprocessor(root):
    episode = make(root)[0]
    data = DetDataPreprocessor(mean=[0] * 3, std=[1] * 3, pad_size_divisor=16)(one_episode([episode]), training=True)
    assert data["inputs"].shape == (12, 3, 32, 48) and len(data["data_samples"]) == 12


@pytest.mark.parametrize(("change", "words"), [
    ({"n_way": 6}, "5 of 6 classes have a box"), ({"k_shot": 0}, "k_shot=0"), ({"k_shot": (3, 2)}, r"k_shot=\(3, 2\)"),
    ({"classes": ("a", "bb")}, "'bb' is no class of split six"), ({"others": "mask"}, "others='mask'"),
])
def test_episodes_that_cannot_be_are_refused(root, change, words):
    with pytest.raises(UserError, match=words):
        make(root, **change)


def test_several_episodes_are_no_batch(episodes):
    with pytest.raises(UserError, match="batch_size=1"):
        one_episode([episodes[0], episodes[1]])


def test_a_pipeline_that_cuts_every_box_away_is_refused_by_image(root):
    crop = [*STEPS[:3], RandomCrop(crop_size=(1, 1)), PackDetInputs()]
    with pytest.raises(UserError, match=r"\.png: its query pipeline left no box"):
        make(root, pipeline=crop)[0]
