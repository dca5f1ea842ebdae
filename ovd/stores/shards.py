"""Proposal and region stores: a folder of HDF5 shards keyed by image id (the layout of one: :mod:`ovd.stores.layout`).

    plan.json      what the store will hold; written first, so that two configurations never mix
    image_ids.npy  all image ids, ascending
    shard-00012-of-00256.h5
    manifest.json  written last: a store without it is unfinished

A shard is the unit of work. Any number of processes may write different shards of one store; resuming is writing what
:meth:`StoreWriter.missing` lists.
"""

import hashlib
import io
import json
import operator
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ovd.errors import UserError
from ovd.stores.atomic import atomic_write, sweep, write_bytes
from ovd.stores.layout import Regions, Shard, encode_shard, pack, shard_name
from ovd.stores.lock import StoreLock
from ovd.stores.manifest import PASSING, Manifest, canonical_json, fingerprint, fingerprint_json
from ovd.stores.rows import ROWS

__all__ = ["RegionStore", "Regions", "StoreWriter"]

KINDS = ("proposals", "regions")
MAPPED_SHARDS = 64  # mapped at a time by a reader; each takes a file descriptor

_NOUN = {"kind": "kind", "dim": "embedding width", "images": "number of images", "images_per_shard": "images per shard",
         "image_ids": "image ids", "config": "configuration or inputs", "schema": "schema version",
         "rows": "type of rows"}


class StoreWriter:
    """Writes a store shard by shard; made by :meth:`RegionStore.create`."""

    def __init__(self, path: Path, plan: dict[str, Any], image_ids: np.ndarray) -> None:
        self.path = path
        self._plan = plan
        self._ids = image_ids
        self._fingerprint = fingerprint_json(plan)

    @property
    def total_shards(self) -> int:
        """Number of shards of the finished store."""
        return -(-len(self._ids) // self._plan["images_per_shard"])

    @property
    def rows(self) -> str | None:
        """Type of the stored embeddings, one of :data:`ovd.stores.rows.ROWS`; None for proposals."""
        return row_type(self._plan)

    def image_ids(self, shard: int) -> list[int]:
        """The ids of the images that ``shard`` holds, ascending."""
        if not 0 <= shard < self.total_shards:
            raise IndexError(f"shard {shard} of {self.total_shards}")
        per = self._plan["images_per_shard"]
        return self._ids[shard * per:(shard + 1) * per].tolist()

    def _file(self, shard: int) -> Path:
        return self.path / shard_name(shard, self.total_shards)

    @contextmanager
    def exclusive(self, part: tuple[int, int] | None = None) -> Iterator["StoreWriter"]:
        """Hold the store for a run, of all shards or of the ``part`` (i, n); see :class:`ovd.stores.lock.StoreLock`.

        For the run as a whole, which then asks what is :meth:`missing`: the processes that it starts write without.

        Raises: UserError at once when another run holds it, or has begun the store anew since this writer was made.
        """
        with StoreLock(self.path, part) as lock:
            sweep(self.path, everything=lock.is_alone)
            if read_plan(self.path) != self._plan:
                raise UserError(f"{self.path}: another run has just begun this store with another configuration or "
                                "inputs; choose another output path")
            yield self

    def missing(self) -> list[int]:
        """The shards that are still to be written: absent, cut, or of another plan."""
        return [shard for shard in range(self.total_shards) if self._load(shard) is None]

    def _load(self, shard: int) -> Shard | None:
        if not self._file(shard).exists():
            return None
        try:
            opened = Shard(self._file(shard))
        except UserError:
            return None
        return opened if opened.plan == self._fingerprint else None

    def write(self, shard: int, regions: Mapping[int, Regions]) -> None:
        """Write one shard, atomically.

        Args:
            shard: 0 <= shard < total_shards.
            regions: for each of ``image_ids(shard)`` its regions (empty ones for an image without any).

        Raises: UserError that names the image and row for boxes that are not finite or have no area, scores that are
            not finite, embeddings of another width or not of unit length; ValueError for other image ids.
        """
        expected = self.image_ids(shard)
        if sorted(regions) != expected:
            odd = sorted(set(regions) ^ set(expected))
            raise ValueError(f"{self._file(shard)}: image ids differ from the shard's plan, e.g. {odd[:5]}")
        try:
            checked = {image_id: regions[image_id].check(image_id, self._plan["dim"]) for image_id in expected}
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        target = self._file(shard)
        arrays = pack(checked, self.rows)
        data = encode_shard(arrays, self._plan["kind"], self._fingerprint)
        with atomic_write(target) as temporary:
            temporary.write_bytes(data)
            del data
            Shard(temporary).require_equal(arrays)

    def finish(self, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str],
               counts: Mapping[str, Any] | None = None, flags: Mapping[str, Any] | None = None,
               wall_seconds: float = 0.0, skipped: Sequence[Any] = ()) -> Manifest:
        """Write the manifest, which makes the store a finished one; UserError when shards are missing."""
        shards = [self._load(shard) for shard in range(self.total_shards)]
        absent = [shard for shard, opened in enumerate(shards) if opened is None]
        if absent:
            raise UserError(f"{self.path}: {len(absent)} of {self.total_shards} shards are missing, e.g. "
                            f"{shard_name(absent[0], self.total_shards)}; run the stage again to go on")
        files = {name: {"size": (self.path / name).stat().st_size, "sha256": fingerprint(self.path / name)}
                 for name in ("plan.json", "image_ids.npy")}
        files |= {shard.path.name: {"size": shard.size, "sha256": shard.sha256} for shard in shards}
        manifest = Manifest(
            self._plan["kind"], stage, dict(config), dict(inputs), flags=dict(flags or {}), skipped=list(skipped),
            counts={"images": len(self._ids), "regions": sum(int(shard.offset[-1]) for shard in shards),
                    "shards": self.total_shards, **(counts or {})},
            wall_seconds=wall_seconds, files=files)
        manifest.write(self.path)
        return manifest


class RegionStore:
    """Reads a finished store: ``store[image_id]`` gives the regions of an image.

    Opening is lazy. An instance may be pickled, forked, used in DataLoader workers of either start method, and read by
    several threads.
    """

    def __init__(self, path: str | os.PathLike, mapped_shards: int = MAPPED_SHARDS) -> None:
        """Args: ``mapped_shards`` bounds the shards that are mapped into memory at a time.

        Raises: UserError when the store does not exist, is unfinished, or lost a file.
        """
        self.path = Path(path)
        plan = read_plan(self.path)
        if plan is not None and not Manifest.path(self.path).exists():
            raise UserError(f"{self.path}: the store is unfinished; run the stage that makes it again, it goes on "
                            "where it was")
        self.manifest = Manifest.read(self.path)
        if self.manifest.kind not in KINDS or plan is None:
            raise UserError(f"{self.path}: is not a store of proposals or regions (kind {self.manifest.kind!r})")
        if broken := self.manifest.broken_file(self.path):
            raise UserError(f"{self.path}: {broken}; run the stage again: ovd {self.manifest.stage} (only damaged "
                            "shards are rebuilt)")
        self.kind: str = plan["kind"]
        self.dim: int | None = plan["dim"]
        self.rows: str | None = row_type(plan)
        self.image_ids: np.ndarray = load_image_ids(self.path, plan["image_ids"])
        self.images_per_shard: int = plan["images_per_shard"]
        self._plan_fingerprint = fingerprint_json(plan)
        self._total = -(-len(self.image_ids) // self.images_per_shard)
        self._mapped_limit = mapped_shards
        self._shards: dict[int, Shard] = {}
        self._mapped: OrderedDict[int, None] = OrderedDict()

    @staticmethod
    def create(path: str | os.PathLike, kind: str, image_ids: Iterable[int], images_per_shard: int = 512,
               dim: int | None = None, resume: bool = True, *, rows: str = "float16", overwrite: bool = False,
               config: Any = None) -> StoreWriter:
        """Begin a store, or go on with one.

        Args:
            path: folder of the store.
            kind: ``"proposals"`` or ``"regions"`` (which needs ``dim``, the width of the embeddings).
            image_ids: all images of the store, in any order.
            resume: go on with what is there; False refuses an existing store.
            rows: how embeddings are kept, ``"float16"`` or ``"int8"`` (half the size); read, they are float16.
            overwrite: remove what is there first. With several processes only one may do this, before the others start.
            config: what the content depends on (configuration and input fingerprints). A store that was begun with
                another one is refused, so that shards of two configurations never mix.
        """
        path = Path(path)
        ids = _sorted_ids(path, image_ids)
        if kind not in KINDS or rows not in ROWS:
            raise ValueError(f"kind must be one of {KINDS}, not {kind!r}, and rows one of {ROWS}, not {rows!r}")
        if (kind == "regions") != (dim is not None) or images_per_shard < 1:
            raise ValueError(f"kind={kind!r}, dim={dim}, images_per_shard={images_per_shard}: a region store needs "
                             "dim, a proposal store has none, a shard holds at least one image")
        plan = {"schema": 1, "kind": kind, "dim": dim, "images": len(ids), "images_per_shard": int(images_per_shard),
                "image_ids": _digest(ids), "config": fingerprint_json(config)}
        if dim is not None and rows != "float16":
            plan["rows"] = rows
        old = read_plan(path)
        if old is not None and overwrite:
            with StoreLock(path):  # another run may be at work on it
                _remove_store(path)
            old = None
        if old is None and _is_occupied(path):
            old = read_plan(path)  # another process may have begun the store in between
            if old is None:
                raise UserError(f"{path}: exists and is not a store; choose another output path")
        if old is None:
            write_bytes(path / "plan.json", (canonical_json(plan) + "\n").encode())
        elif old != plan:
            changed = next(key for key in _NOUN if old.get(key) != plan.get(key))
            raise UserError(f"{path}: the store was begun with another {_NOUN[changed]} ({_shown(old, changed)}, "
                            f"now {_shown(plan, changed)}); pass --overwrite to begin again")
        elif not resume:
            raise UserError(f"{path}: the store exists; pass --overwrite to begin again")
        if not (path / "image_ids.npy").exists():
            buffer = io.BytesIO()  # numpy does not say why it could not write
            np.save(buffer, ids)
            write_bytes(path / "image_ids.npy", buffer.getbuffer())
        sweep(path)
        return StoreWriter(path, plan, ids)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        try:
            return self._position(operator.index(image_id)) is not None
        except TypeError:
            return False

    def __getitem__(self, image_id: int) -> Regions:
        """The regions of an image, as arrays of the caller's own; UserError for an image that is not stored."""
        regions = self.view(image_id)
        embeddings = regions.embeddings
        return Regions(regions.boxes.copy(), regions.scores.copy(), None if embeddings is None else embeddings.copy())

    def view(self, image_id: int) -> Regions:
        """As ``store[image_id]``, but read-only: views of the mapped file (not of rows kept as int8), no copy."""
        position = self._position(operator.index(image_id))
        if position is None:
            self.require_images([image_id])
        shard, inside = divmod(position, self.images_per_shard)
        return self._open(shard).regions(inside)

    def require_images(self, image_ids: Iterable[int]) -> None:
        """UserError unless every one of ``image_ids`` is stored; names how many are not and the first."""
        absent = np.setdiff1d(np.fromiter(map(operator.index, image_ids), np.int64), self.image_ids)
        if len(absent):
            raise UserError(f"{self.path}: holds no regions of {len(absent)} image(s), e.g. image id {absent[0]} (it "
                            f"has {len(self)} images, {self.image_ids[0]} to {self.image_ids[-1]}); make the store "
                            f"from the same annotation file: ovd {self.manifest.stage}")

    def shards_of(self, image_ids: Iterable[int]) -> list[int]:
        """The shards that hold ``image_ids`` (of images that are stored), ascending."""
        return np.unique(np.searchsorted(self.image_ids, list(image_ids)) // self.images_per_shard).tolist()

    def verify(self, shards: Iterable[int] | None = None) -> int:
        """Read shards (None: all) and compare checksums; returns their regions, UserError for the first damaged one."""
        regions = 0
        for index in range(self._total) if shards is None else shards:
            shard = self._open(index)
            shard.verify()
            regions += int(shard.offset[-1])
        return regions

    def _position(self, image_id: int) -> int | None:
        position = int(np.searchsorted(self.image_ids, image_id))
        return position if position < len(self) and self.image_ids[position] == image_id else None

    def _open(self, index: int) -> Shard:
        shard = self._shards.get(index)
        if shard is None:
            shard = self._shards[index] = self._load(index)
        self._mapped[index] = None
        with suppress(KeyError):  # of another thread that was quicker; no lock, which a fork might find held
            self._mapped.move_to_end(index)
            if len(self._mapped) > self._mapped_limit:
                oldest, _ = self._mapped.popitem(last=False)
                self._shards[oldest].unmap()
        return shard

    def _load(self, index: int) -> Shard:
        shard = Shard(self.path / shard_name(index, self._total))
        expected = self.manifest.files[shard.path.name]
        ids = self.image_ids[index * self.images_per_shard:(index + 1) * self.images_per_shard]
        if shard.size != expected["size"] or shard.sha256 != expected["sha256"] or not np.array_equal(
                shard.image_id, ids) or shard.dim != self.dim or shard.rows != self.rows \
                or shard.plan != self._plan_fingerprint:
            raise UserError(f"{shard.path}: is not the shard that the manifest names; delete it and run the stage "
                            f"again: ovd {self.manifest.stage} (only this shard is rebuilt)")
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}, "_mapped": OrderedDict()}


def _sorted_ids(path: Path, image_ids: Iterable[int]) -> np.ndarray:
    ids = np.fromiter(map(operator.index, image_ids), np.int64)
    if not len(ids):
        raise UserError(f"{path}: no images to store; is the annotation file empty?")
    ids = np.sort(ids)
    if (same := ids[1:] == ids[:-1]).any():
        raise UserError(f"{path}: image id {ids[int(same.argmax())]} occurs twice; image ids must be unique")
    return ids


def _is_occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(not f.name.startswith(PASSING) for f in path.iterdir()))


def _digest(ids: np.ndarray) -> str:
    return "sha256:" + hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def load_image_ids(path: Path, digest: str) -> np.ndarray:
    """All image ids of the store in ``path``; UserError unless they are those with the plan's ``digest``."""
    try:
        ids = np.load(path / "image_ids.npy", allow_pickle=False)
        if _digest(ids) == digest:
            return ids
    except Exception:  # of a damaged header numpy complains in many ways, by TokenError for one
        pass
    raise UserError(f"{path / 'image_ids.npy'}: is damaged; delete it and run the stage again")


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of the store in ``path``; None where there is none, UserError when it is damaged."""
    try:
        plan = json.loads((path / "plan.json").read_bytes())
        if isinstance(plan, dict) and plan.keys() | {"rows"} == _NOUN.keys():
            return plan
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        pass
    raise UserError(f"{path / 'plan.json'}: is not the plan of a store; delete the folder and run the stage again")


def _remove_store(path: Path) -> None:
    """Delete the store's own files, the plan last: what an interruption leaves is still known as a store."""
    Manifest.path(path).unlink(missing_ok=True)
    for file in [*path.glob("shard-*-of-*.h5"), path / "image_ids.npy", path / "plan.json"]:
        with suppress(FileNotFoundError):
            file.unlink()


def row_type(plan: Mapping[str, Any]) -> str | None:
    """How the store of a plan keeps embeddings, one of :data:`ovd.stores.rows.ROWS`; None for proposals."""
    return None if plan["dim"] is None else plan.get("rows", "float16")


def _shown(plan: Mapping[str, Any], key: str) -> str:
    value = row_type(plan) if key == "rows" else plan.get(key)
    return value[:15] if isinstance(value, str) else str(value)
