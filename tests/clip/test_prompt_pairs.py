"""Which regions are trained on, and their batches: against loops over boxes, for any order of reading."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.clip.prompts import pairs as pairs_module
from ovd.clip.prompts.batches import PairReader
from ovd.clip.prompts.pairs import RECORD, PairFile, Selection, append, proposal_pairs, truth_pairs
from ovd.errors import UserError
from ovd.stores.shards import Regions, RegionStore


def plain_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


boxes = st.lists(st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 9)] * 2), max_size=6).map(
    lambda rows: np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float64).reshape(-1, 4))


@settings(max_examples=60, deadline=None)
@given(proposals=boxes, objects=boxes)
def test_proposals_are_labelled_by_their_best_overlap(proposals, objects):
    labels = np.arange(len(objects)) + 3
    wanted = []
    for row, box in enumerate(proposals):
        overlaps = [plain_iou(box, other) for other in objects]
        best = max(overlaps, default=0)
        if best >= 0.1:
            wanted.append((row, overlaps.index(best) + 3 if best >= 0.5 else -1, pytest.approx(best)))
    found = proposal_pairs(proposals, objects, labels)
    assert list(zip(found["row"].tolist(), found["label"].tolist(), found["iou"].tolist())) == wanted
    assert not found["truth"].any()


def test_annotated_boxes_are_found_by_equality_and_others_are_left_out():
    box, other, novel = (0.1, 0.2, 5.3, 6.7), (1, 1, 4, 4), (2, 2, 9, 9)
    stored = np.array([novel, box, other, box], np.float32)
    found = truth_pairs(stored, np.array([box, other, box, (7, 7, 8, 8)]), np.array([5, 6, 7, 8]))
    assert found["row"].tolist() == [1, 2, 3] and found["label"].tolist() == [5, 6, 7]
    assert (found["iou"] == 1).all() and found["truth"].all()


def records(count, seed=0):
    rng = np.random.default_rng(seed)
    pairs = np.zeros(count, RECORD)
    pairs["image"], pairs["row"] = np.arange(count) // 40, np.arange(count) % 40
    pairs["iou"] = rng.uniform(0.1, 1, count)
    pairs["label"] = np.where(pairs["iou"] >= 0.5, rng.integers(0, 3, count), -1)
    return pairs


@pytest.fixture
def pair_file(tmp_path):
    with open(tmp_path / "pairs.bin", "wb") as file:
        append(file, records(10_000))
    return PairFile(tmp_path / "pairs.bin")


def test_selection_takes_the_range_a_tenth_of_background_and_no_held_out_image(pair_file):
    pairs = records(10_000)
    chosen = np.concatenate(list(Selection((0.6, 0.7), holdout=0.2).of(pair_file)))
    held_out = np.concatenate(list(Selection((0.6, 0.7), holdout=0.2, held_out=True).of(pair_file)))
    positives = pairs[(pairs["iou"] >= 0.6) & (pairs["iou"] < 0.7)]
    assert len(chosen[chosen["label"] >= 0]) + len(held_out) == len(positives)
    assert set(chosen["image"]).isdisjoint(held_out["image"]) and (held_out["label"] >= 0).all()
    assert 0.1 < len(set(held_out["image"])) / 250 < 0.3
    everything = np.concatenate(list(Selection((0.6, 0.7)).of(pair_file)))
    background = int((everything["label"] < 0).sum())
    assert 0.08 < background / (pairs["label"] < 0).sum() < 0.12
    other = np.concatenate(list(Selection((0.6, 0.7), seed=1).of(pair_file)))
    assert not np.array_equal(everything, other)
    counts, negatives = Selection((0.6, 0.7)).counts(pair_file, 3)
    assert counts.tolist() == [int((positives["label"] == label).sum()) for label in range(3)]
    assert negatives == background


def test_a_cut_file_is_refused(tmp_path):
    (tmp_path / "pairs.bin").write_bytes(b"x" * 16)
    with pytest.raises(UserError, match="is cut"):
        PairFile(tmp_path / "pairs.bin")


def store(path, images, per_image, dim=8, first=0):
    """A store whose embedding of row r of image i says which it is."""
    writer = RegionStore.create(path, "regions", images, images_per_shard=3, dim=dim)
    for shard in range(writer.total_shards):
        contents = {}
        for image_id in writer.image_ids(shard):
            rng = np.random.default_rng(first + image_id)
            rows = rng.normal(size=(per_image, dim))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            boxes = np.tile(np.array([0, 0, 4, 4], np.float32), (per_image, 1))
            contents[image_id] = Regions(boxes, np.ones(per_image, np.float32), rows.astype(np.float16))
        writer.write(shard, contents)
    writer.finish("embed-regions", {}, {})
    return RegionStore(path, mapped_shards=1)


@pytest.mark.parametrize("buffer", [7, 1000])
def test_an_epoch_has_every_pair_once_with_its_own_embedding(tmp_path, monkeypatch, buffer):
    monkeypatch.setattr("ovd.clip.prompts.batches.BLOCK", 10)
    monkeypatch.setattr(pairs_module, "BLOCK", 10)
    ids = list(range(5, 75, 7))
    regions, truth = store(tmp_path / "regions", ids, 6), store(tmp_path / "truth", ids, 3, first=1000)
    pairs = np.zeros(len(ids) * 9, RECORD)
    pairs["image"] = np.repeat(np.arange(len(ids)), 9)
    pairs["row"], pairs["truth"] = np.tile([0, 1, 2, 3, 4, 5, 0, 1, 2], len(ids)), np.tile([0] * 6 + [1] * 3, len(ids))
    pairs["iou"], pairs["label"] = 0.95, np.arange(len(pairs))
    (tmp_path / "pairs.bin").write_bytes(pairs.tobytes())
    reader = PairReader(PairFile(tmp_path / "pairs.bin"), regions, truth, buffer)
    everything = Selection((0.9, 1.1))
    held = []
    read = reader.read
    reader.read = lambda chosen: held.append(len(chosen)) or read(chosen)

    def epoch(seed):
        batches = list(reader.batches(everything, 4, seed))
        assert all(len(labels) == 4 for _, labels in batches[:-1])
        return torch.cat([rows for rows, _ in batches]), torch.cat([labels for _, labels in batches])

    rows, labels = epoch((0, 0))
    assert sorted(labels.tolist()) == list(range(len(pairs))) and labels.tolist() != sorted(labels.tolist())
    for row, label in zip(rows, labels.tolist()):
        of = (regions, truth)[pairs["truth"][label]]
        own = of[ids[pairs["image"][label]]].embeddings[pairs["row"][label]]
        assert np.array_equal(row.numpy(), own.astype(np.float32))
    assert torch.equal(epoch((0, 0))[1], labels) and not torch.equal(epoch((0, 1))[1], labels)
    assert epoch(None)[1].tolist() == list(range(len(pairs)))
    assert max(held) <= buffer + 10  # what is in memory at a time, however many there are
