"""One shard of a proposal or region store: an HDF5 file in CSR layout.

    image_id  [n]     int64    ascending
    offset    [n+1]   int64    rows of image i are offset[i]:offset[i+1]
    boxes     [N, 4]  float32  x1 y1 x2 y2 in pixels of the original image
    score     [N]     float32
    embedding [N, D]  float16  unit rows (region stores only), or int8, and then also
    scale     [N]     float32  which a row of int8 is multiplied by

All datasets are contiguous, so a reader maps the file into memory and slices rows. The same content gives the same
bytes. Attributes: kind, plan (fingerprint of the store's plan) and sha256 (over the datasets).
"""

import hashlib
import mmap
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from ovd.errors import UserError
from ovd.stores.manifest import canonical_json
from ovd.stores.rows import dequantise, half, lengths, quantise

# |norm - 1| of a unit row after rounding to float16 stays below 5e-4; what is further off was not normalised
UNIT_TOLERANCE = 5e-3

_DATASETS = {"image_id": ("<i8",), "offset": ("<i8",), "boxes": ("<f4",), "score": ("<f4",),
             "embedding": ("<f2", "|i1"), "scale": ("<f4",)}
_REMEDY = "delete it and run the stage again, which rebuilds only this shard"
_ALIGNMENT = 64  # bytes; smaller datasets follow each other
_BLOCK = 1 << 22  # bytes that are read, digested and compared at a time


class DamagedShard(UserError):
    """A shard that is not what was written; ``problem`` says how."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.problem = problem

    def __str__(self) -> str:
        return "{}: {}; ".format(*self.args) + _REMEDY


@dataclass(eq=False)
class Regions:
    """The regions of one image.

    Attributes:
        boxes: [n, 4] float32, x1 y1 x2 y2 in pixels of the original image.
        scores: [n] float32, in general descending.
        embeddings: [n, D] float16 with unit rows, or None for proposals.
    """

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def check(self, image_id: int, dim: int | None) -> "Regions":
        """The same in storage types; UserError that names the image and the row for what must not be stored."""
        boxes = np.ascontiguousarray(self.boxes, "<f4")
        scores = np.ascontiguousarray(self.scores, "<f4")
        where = f"image {image_id}"
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
            raise UserError(f"{where}: boxes {boxes.shape} and scores {scores.shape}, expected [n, 4] and [n]")
        _refuse(~np.isfinite(boxes).all(1), where, "box", boxes, "is not finite")
        _refuse((boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1]), where, "box", boxes,
                "has no area (x1 y1 x2 y2)")
        _refuse(~np.isfinite(scores), where, "score", scores, "is not finite")
        if dim is None:
            if self.embeddings is not None:
                raise UserError(f"{where}: a proposal store takes no embeddings")
            return Regions(boxes, scores)
        if self.embeddings is None or self.embeddings.shape != (len(boxes), dim):
            shape = None if self.embeddings is None else self.embeddings.shape
            raise UserError(f"{where}: embeddings {shape}, expected ({len(boxes)}, {dim}): the store's width is {dim}")
        embeddings = half(self.embeddings)
        norms = lengths(embeddings)
        _refuse(~(np.abs(norms - 1) <= UNIT_TOLERANCE), where, "embedding", norms, "is the norm, not 1: not a unit row")
        return Regions(boxes, scores, embeddings)


def _refuse(bad: np.ndarray, where: str, what: str, values: np.ndarray, problem: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise UserError(f"{where}: {what} {row}: {values[row].tolist()} {problem}")


def pack(regions: Mapping[int, Regions], rows: str | None) -> dict[str, np.ndarray]:
    """The datasets of a shard that holds ``regions`` (image id -> checked regions); ids are sorted.

    Args:
        rows: type of the embeddings, one of :data:`ovd.stores.rows.ROWS`; None for proposals.
    """
    ids = sorted(regions)
    parts = [regions[i] for i in ids]
    arrays = {
        "image_id": np.array(ids, "<i8"),
        "offset": np.cumsum([0, *map(len, parts)], dtype="<i8"),
        "boxes": np.concatenate([p.boxes for p in parts]),
        "score": np.concatenate([p.scores for p in parts]),
    }
    if rows == "float16":
        arrays["embedding"] = np.concatenate([p.embeddings for p in parts])
    elif rows == "int8":
        quantised = [quantise(p.embeddings) for p in parts]
        arrays["embedding"], arrays["scale"] = map(np.concatenate, zip(*quantised))
    return arrays


def encode_shard(arrays: Mapping[str, np.ndarray], kind: str, plan: str) -> bytes:
    """The bytes of a shard file with the datasets that :func:`pack` made."""
    # Built in memory: a full disk then fails in a plain write, not inside the HDF5 library, and pages that HDF5 leaves
    # unused are zero. Rows begin at multiples of 64 bytes, as copies from the memory map like it.
    name = f"shard-{threading.get_ident()}"  # HDF5 has one file of a name open at a time, also in memory
    with h5py.File(name, "w", driver="core", backing_store=False, libver=("earliest", "v108"), track_order=False,
                   block_size=1 << 24, alignment_threshold=_ALIGNMENT, alignment_interval=_ALIGNMENT) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
        file.attrs["kind"] = np.bytes_(kind)
        file.attrs["plan"] = np.bytes_(plan)
        file.attrs["sha256"] = np.bytes_(_digest(arrays))
        file.flush()
        return file.id.get_file_image()


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    sha = _begin_digest((name, array.dtype, array.shape) for name, array in arrays.items())
    for array in arrays.values():
        sha.update(np.ascontiguousarray(array).data)
    return "sha256:" + sha.hexdigest()


def _begin_digest(datasets: Iterable[tuple[str, np.dtype, tuple[int, ...]]]) -> "hashlib._Hash":
    return hashlib.sha256(canonical_json([[name, dtype.str, shape] for name, dtype, shape in datasets]).encode())


class Shard:
    """A shard file opened for reading. The file is mapped, no HDF5 handle stays open, so a fork does no harm.

    Raises: DamagedShard that names the file when it is missing, truncated or not such a shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        try:
            with h5py.File(path, "r", locking=False) as file:
                self.kind = bytes(file.attrs["kind"]).decode()
                self.plan = bytes(file.attrs["plan"]).decode()
                self.sha256 = bytes(file.attrs["sha256"]).decode()
                self.offset = file["offset"][:]
                self.image_id = file["image_id"][:]
                self._layout = {name: _place(file[name]) for name in _DATASETS if name in file}
            self.size = path.stat().st_size
            self._check()
        except Exception as error:  # of a damaged file HDF5 complains in many ways, by TypeError for one
            said = str(error).splitlines() or [type(error).__name__]
            reason = "is missing" if isinstance(error, FileNotFoundError) else \
                f"is truncated or corrupt ({said[0][:120]})"
            raise DamagedShard(path, reason) from error
        self._arrays: dict[str, np.ndarray] | None = None

    def _check(self) -> None:
        rows = self._layout["boxes"][1][0]
        if len(self.offset) != len(self.image_id) + 1 or self.offset[0] != 0 or self.offset[-1] != rows \
                or (np.diff(self.offset) < 0).any() or self._layout["score"][1] != (rows,):
            raise ValueError("offsets do not fit the rows")
        if "embedding" in self._layout and (len(self._layout["embedding"][1]) != 2
                                            or self._layout["embedding"][1][0] != rows):
            raise ValueError("embeddings do not fit the boxes")
        if self._layout.get("scale", (None, None))[1] != ((rows,) if self.rows == "int8" else None):
            raise ValueError("scales do not fit the rows")
        for name, (place, shape, dtype) in self._layout.items():
            if dtype.str not in _DATASETS[name]:
                raise ValueError(f"{name} is {dtype}")
            if place is None and np.prod(shape):
                raise ValueError(f"{name} is not contiguous")
            if place is not None and place + int(np.prod(shape)) * dtype.itemsize > self.size:
                raise ValueError(f"{name} ends after the file")
        # HDF5 does not notice when the place of a dataset is wrong in the file: none begins in the middle of another
        taken = sorted((place, place + int(np.prod(shape)) * dtype.itemsize)
                       for place, shape, dtype in self._layout.values() if place is not None)
        if any(start < end for (_, end), (start, _) in pairwise(taken)) or any(
                end - start >= _ALIGNMENT and start % _ALIGNMENT for start, end in taken):
            raise ValueError("datasets are not where they were written")

    @property
    def dim(self) -> int | None:
        """Width of the embeddings; None for proposals."""
        return self._layout["embedding"][1][1] if "embedding" in self._layout else None

    @property
    def rows(self) -> str | None:
        """Type of the stored embeddings, one of :data:`ovd.stores.rows.ROWS`; None for proposals."""
        return self._layout["embedding"][2].name if "embedding" in self._layout else None

    def arrays(self) -> dict[str, np.ndarray]:
        """All datasets as read-only views of the mapped file."""
        arrays = self._arrays
        if arrays is None:
            with open(self.path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = self._arrays = {
                name: np.zeros(shape, dtype) if place is None else
                np.frombuffer(mapped, dtype, int(np.prod(shape)), place).reshape(shape)
                for name, (place, shape, dtype) in self._layout.items()}
        return arrays  # not self._arrays: another thread may have unmapped it

    def unmap(self) -> None:
        """Give the mapping back once no view of it is in use; the index stays."""
        self._arrays = None

    def regions(self, position: int) -> Regions:
        """Read-only rows of the image at ``position`` in this shard: views, but for embeddings kept as int8."""
        arrays = self.arrays()
        rows = slice(int(self.offset[position]), int(self.offset[position + 1]))
        embeddings = arrays["embedding"][rows] if "embedding" in arrays else None
        if "scale" in arrays:
            embeddings = dequantise(embeddings, arrays["scale"][rows])
            embeddings.flags.writeable = False
        return Regions(arrays["boxes"][rows], arrays["score"][rows], embeddings)

    def verify(self, progress: Callable[[int], None] = lambda size: None) -> None:
        """Read everything; DamagedShard when the content is not what was written.

        By plain reads, of constant memory: a disk that fails then is an error, while it would end a process that has
        the file mapped. Other threads run meanwhile.

        Args:
            progress: called with the number of bytes after each block.
        """
        sha = _begin_digest((name, dtype, shape) for name, (_, shape, dtype) in self._layout.items())
        buffer = memoryview(bytearray(_BLOCK))
        try:
            with open(self.path, "rb", buffering=0) as file:
                for place, shape, dtype in self._layout.values():
                    left = int(np.prod(shape)) * dtype.itemsize
                    file.seek(place or 0)
                    while left:
                        size = file.readinto(buffer[:min(left, _BLOCK)])
                        if not size:
                            raise DamagedShard(self.path, "was cut while it was read")
                        sha.update(buffer[:size])
                        left -= size
                        progress(size)
        except OSError as error:
            raise DamagedShard(self.path, f"cannot be read ({error.strerror})") from error
        if "sha256:" + sha.hexdigest() != self.sha256:
            raise DamagedShard(self.path, "the checksum does not match, its content was damaged")

    def require_equal(self, arrays: Mapping[str, np.ndarray]) -> None:
        """UserError unless the file holds ``arrays``, bit by bit: what was just written is what should have been."""
        found = self.arrays()
        if found.keys() != arrays.keys() or not all(_same_bits(found[name], arrays[name]) for name in arrays):
            raise UserError(f"{self.path}: holds other bytes than were written; is the disk damaged?")


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (a, b))
    return all(np.array_equal(a[start:start + _BLOCK], b[start:start + _BLOCK]) for start in range(0, len(a), _BLOCK))


def _place(dataset: h5py.Dataset) -> tuple[int | None, tuple[int, ...], np.dtype]:
    return dataset.id.get_offset(), dataset.shape, dataset.dtype


def shard_name(shard: int, total: int) -> str:
    """``shard-00012-of-00256.h5``"""
    return f"shard-{shard:05d}-of-{total:05d}.h5"
