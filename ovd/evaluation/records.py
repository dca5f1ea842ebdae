"""Detections of images one by one, as a test run collects them, and many images in columns, as processes send them.

The record of an image is ``{"image_id": int, "boxes": [n, 4] float32 xyxy, "scores": [n], "labels": [n]}`` with, where
they were made, ``"masks"`` (:class:`PackedMasks`), ``"one_label"`` (boxes, scores and labels again) and
``"true_labels"``, ``"labels_at_truth"`` ``[g]``. A dict for each mask would take most of the memory of a run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_FOUND = ("boxes", "scores", "labels")
_AT_TRUTH = ("true_labels", "labels_at_truth")


@dataclass(frozen=True)
class PackedMasks(Sequence):
    """Run-length encodings of n masks of one image: a sequence of ``{"size": [h, w], "counts": bytes}``.

    Attributes:
        size: height and width.
        counts: the encodings, one after another.
        lengths: ``[n]`` int32, bytes of each.
    """

    size: tuple[int, int]
    counts: bytes
    lengths: np.ndarray

    @classmethod
    def of(cls, masks: Sequence[dict]) -> "PackedMasks":
        """The same masks, packed."""
        size = tuple(masks[0]["size"]) if masks else (0, 0)
        counts = [mask["counts"] for mask in masks]
        return cls(size, b"".join(counts), np.array([len(one) for one in counts], np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict:
        end = int(self.lengths[: range(len(self))[index] + 1].sum())
        return {"size": list(self.size), "counts": self.counts[end - int(self.lengths[index]) : end]}

    def __iter__(self) -> Iterator[dict]:
        start, size = 0, list(self.size)
        for length in self.lengths.tolist():
            yield {"size": size, "counts": self.counts[start : start + length]}
            start += length


def to_columns(records: Sequence[dict]) -> dict[str, np.ndarray]:
    """Records as a few arrays: what pickles into as many bytes as the numbers have."""
    columns = {"image_id": np.array([record["image_id"] for record in records], np.int64)}
    if not records:
        return columns
    columns |= _found_columns("", records)
    if all("masks" in record for record in records):
        masks = [record["masks"] for record in records]
        columns["mask_size"] = np.array([one.size for one in masks], np.int64)
        columns["mask_length"] = np.concatenate([one.lengths for one in masks])
        columns["mask_counts"] = np.frombuffer(b"".join(one.counts for one in masks), np.uint8)
    if all("one_label" in record for record in records):
        columns |= _found_columns("one_label.", [record["one_label"] for record in records])
    if all("labels_at_truth" in record for record in records):
        columns["objects"] = np.array([len(record["true_labels"]) for record in records], np.int64)
        columns |= {name: np.concatenate([record[name] for record in records]) for name in _AT_TRUTH}
    return columns


def from_columns(columns: dict[str, np.ndarray]) -> list[dict]:
    """The records that :func:`to_columns` was given; their arrays are views."""
    records = [{"image_id": image_id} for image_id in columns["image_id"].tolist()]
    if not records:
        return records
    for record, found in zip(records, _found_records("", columns)):
        record |= found
    if "mask_size" in columns:
        lengths = _cut(columns["mask_length"], columns["count"])
        counts = _cut(columns["mask_counts"], np.array([one.sum() for one in lengths], np.int64))
        for record, size, some, length in zip(records, columns["mask_size"].tolist(), counts, lengths):
            record["masks"] = PackedMasks(tuple(size), some.tobytes(), length)
    if "one_label.count" in columns:
        for record, found in zip(records, _found_records("one_label.", columns)):
            record["one_label"] = found
    if "objects" in columns:
        for name in _AT_TRUTH:
            for record, labels in zip(records, _cut(columns[name], columns["objects"])):
                record[name] = labels
    return records


def merge(parts: Sequence[dict[str, np.ndarray]]) -> dict[int, dict]:
    """The records of several processes in order of image id; an image that a sampler repeated counts once."""
    by_image = {record["image_id"]: record for part in parts for record in from_columns(part)}
    return dict(sorted(by_image.items()))


def _found_columns(prefix: str, records: Sequence[dict]) -> dict[str, np.ndarray]:
    counts = np.array([len(record["scores"]) for record in records], np.int64)
    joined = {prefix + name: np.concatenate([record[name] for record in records]) for name in _FOUND}
    return {f"{prefix}count": counts, **joined}


def _found_records(prefix: str, columns: dict[str, np.ndarray]) -> list[dict]:
    parts = [_cut(columns[prefix + name], columns[f"{prefix}count"]) for name in _FOUND]
    return [dict(zip(_FOUND, values)) for values in zip(*parts)]


def _cut(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(counts).tolist()
    return [values[start:end] for start, end in zip([0, *ends], ends)]
