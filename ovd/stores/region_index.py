"""Search over all regions of a store by cosine: a faiss index in a file, or a scan of the store without one.

The file is a faiss index, followed by the images' ids and row offsets as two .npy arrays; its manifest says where those
begin, of which store it is, and how thoroughly it is to be searched.

Shapes: N rows, D width, Q queries, K hits.
"""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ovd.errors import UserError
from ovd.stores.index_kinds import MEMORY, adder, choose_kind, opened, train, training_rows, untrained_index
from ovd.stores.index_recall import REPORTED, QuerySet, choose_effort
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, fingerprint_json, publish, require
from ovd.stores.region_rows import BLOCK, BestRows, RowMap, ranked, row_blocks, take_rows
from ovd.stores.shards import RegionStore

__all__ = ["RegionIndex", "build_index", "index_file"]

STAGE = "build-index"
SAMPLE = 256  # rows of the store, and texts, that recall is measured with

_TOGETHER = 64  # queries whose candidates are compared again at a time
_SCANNED = 1024  # queries for which all rows are gone through once
_MULTIPLIED = 16  # queries from which a matrix product is faster than faiss's scan of half floats


class RegionIndex:
    """Rows of a region store, to be searched. Rows are numbered in order of image id, as they are in the store.

    Attributes:
        kind: ``"exact"``, ``"ivf"``, ``"ivf-pq"``, or ``"scan"`` where there is no index and the store is read.
        dim: D.
        clip: fingerprint of the CLIP that the rows come from; None where the store does not say.
        store: the store, where one was given.
        counts: what building it found: lists, nprobe, refine, recall, ...; empty for a scan.
        path: the file; None for a scan.
    """

    def __init__(self, kind: str, row_map: RowMap, dim: int, index: faiss.Index | None = None,
                 store: RegionStore | None = None, clip: str | None = None, counts: dict[str, Any] | None = None,
                 most_hits: int = np.iinfo(np.int64).max, path: Path | None = None) -> None:
        self.path = path
        self.kind, self.dim, self.store, self.clip, self.counts = kind, dim, store, clip, counts or {}
        self._map, self._index, self._most_hits = row_map, index, most_hits
        self._refine = self.counts.get("refine", 1)

    @classmethod
    def load(cls, path: str | os.PathLike, store: RegionStore | None = None) -> "RegionIndex":
        """Open an index.

        Args:
            store: the store that it is of. With it, an index of another store (or of an earlier state of it) is
                refused, and hits of an ivf-pq index are compared again by the store's own rows.

        Raises:
            UserError: no such index, a damaged one, a stale one.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: no such index; make it with ovd build-index")
        expected = {} if store is None else {"regions": fingerprint(store.path)}
        manifest = require(path, kind="region_index", **expected)
        counts = manifest.counts
        try:
            with open(path, "rb") as file:
                file.seek(counts["faiss_bytes"])
                row_map = RowMap(np.load(file, allow_pickle=False), np.load(file, allow_pickle=False))
            index, most_hits = opened(str(path), counts["kind"])
            if (index.ntotal, index.d) != (len(row_map), counts["dim"]):
                raise ValueError("its parts do not fit together")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be read as an index ({str(error).splitlines()[0][:120]}); "
                            f"{manifest.remedy}") from error
        return cls(counts["kind"], row_map, counts["dim"], index, store, manifest.inputs.get("clip"), counts, most_hits,
                   path)

    @classmethod
    def scan(cls, store: RegionStore) -> "RegionIndex":
        """The same without an index: every search reads all of the store, block by block, and is exact."""
        return cls("scan", RowMap.of(store), store.dim, store=store, clip=store.manifest.inputs.get("clip"))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._map)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image ids ``[n]`` and positions ``[n]`` (row within the image's regions in the store) of rows ``[n]``.

        Raises:
            IndexError: a row that is not there, such as the -1 of a search that found fewer.
        """
        return self._map.locate(rows)

    def rows_of(self, image_id: int) -> range:
        """The rows of an image; KeyError for one that is not there."""
        return self._map.of_image(image_id)

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The K rows with the largest cosine to each query, best first.

        Args:
            queries_QD: float32, unit rows.

        Returns:
            Cosines float32 ``[Q, K]`` and rows int64 ``[Q, K]``; -inf and -1 where fewer are found (an index of lists
            finds no more than the lists it looks into hold). Equal cosines come in order of row.

        Raises:
            UserError: queries of another width, or not finite.
        """
        queries_QD = np.ascontiguousarray(queries_QD, np.float32)
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.dim:
            raise UserError(f"queries {queries_QD.shape}, the regions have width {self.dim}: embed both with one CLIP")
        if not np.isfinite(queries_QD).all():
            raise UserError("a query is not finite: check the CLIP that made it")
        if k < 1:
            raise ValueError(f"k = {k}: needs 1 or more")
        if not len(queries_QD):
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
        if self._index is None or (self.kind == "exact" and len(queries_QD) >= _MULTIPLIED):
            parts = [self._scanned(queries_QD[i:i + _SCANNED], k) for i in range(0, len(queries_QD), _SCANNED)]
        elif self._refine > 1 and self.store is not None:
            parts = [self._refined(queries_QD[i:i + _TOGETHER], k) for i in range(0, len(queries_QD), _TOGETHER)]
        else:
            parts = [self._found(queries_QD, k)]
        scores, rows = (np.concatenate(arrays) for arrays in zip(*parts))
        return scores, rows

    def _scanned(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = BestRows(queries_QD, k)
        for first, rows_BD in row_blocks(self.store) if self._index is None else self._own_blocks():
            best.add(first, rows_BD)
        return best.result()

    def _own_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The rows of an exact index, as :func:`~ovd.stores.region_rows.row_blocks` gives those of a store."""
        codes = faiss.rev_swig_ptr(self._index.codes.data(), len(self) * 2 * self.dim)
        rows_ND = codes.view(np.float16).reshape(len(self), self.dim)
        return ((first, rows_ND[first:first + BLOCK]) for first in range(0, len(self), BLOCK))

    def _found(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wide = min(k, len(self), self._most_hits)
        scores, rows = self._index.search(queries_QD, wide)
        scores[rows < 0] = -np.inf
        padding = ((0, 0), (0, k - wide))
        return ranked(np.pad(scores, padding, constant_values=-np.inf), np.pad(rows, padding, constant_values=-1))

    def _refined(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        _, rows_QW = self._found(queries_QD, max(k, min(k * self._refine, len(self))))
        needed, place = np.unique(rows_QW[rows_QW >= 0], return_inverse=True)
        own_ND = take_rows(self.store, self._map, needed).astype(np.float32)
        scores_QW = np.full(rows_QW.shape, -np.inf, np.float32)
        query, _ = np.nonzero(rows_QW >= 0)
        scores_QW[rows_QW >= 0] = np.einsum("nd,nd->n", queries_QD[query], own_ND[place])
        scores, rows = ranked(scores_QW, rows_QW)
        return scores[:, :k], rows[:, :k]


def index_file(store: str | os.PathLike) -> Path:
    """Where the index of a store usually is: ``regions/train.faiss`` beside ``regions/train``."""
    store = Path(store)
    return store.with_name(store.name + ".faiss")


def build_index(store: RegionStore, path: str | os.PathLike, kind: str = "auto", *, memory: int = MEMORY,
                seed: int = 0, recall: float = 0.95, texts_TD: np.ndarray | None = None, overwrite: bool = False,
                progress: Callable[[int], None] = lambda rows: None,
                say: Callable[[str], None] = lambda text: None) -> RegionIndex:
    """Build the index of a store into a file; one that is current is opened instead.

    Lists and codes are learned from rows drawn over the whole store; then the store is read once, block by block. The
    same store, options and seed give the same bytes.

    Args:
        kind, memory: see :func:`ovd.stores.index_kinds.choose_kind`.
        recall: share of the ten nearest regions that a search is to find; the least thorough search that does is
            recorded. Measured with rows of the store as queries, and with ``texts_TD``.
        texts_TD: float32 unit rows, text embeddings that searches will be like; None where there are none.
        progress: called with the number of rows after each block.
        say: called with a line at the beginning of each step that takes time.

    Raises:
        UserError: see :func:`~ovd.stores.index_kinds.choose_kind`; texts of another width; an existing file that is
            stale, without ``overwrite``.
    """
    path = Path(path)
    if not 0 < recall <= 1:
        raise UserError(f"recall {recall}: needs a number above 0, at most 1")
    if texts_TD is not None and texts_TD.shape[1] != store.dim:
        raise UserError(f"the texts have width {texts_TD.shape[1]}, but {store.path} has width {store.dim}: make both "
                        "with the same CLIP")
    texts = None if texts_TD is None else fingerprint_json(np.asarray(texts_TD, np.float32))
    config = {"kind": kind, "memory": memory, "seed": seed, "recall": recall, "texts": texts}
    clip = store.manifest.inputs.get("clip")
    inputs = {"regions": fingerprint(store.path), **({"clip": clip} if clip else {})}
    if current_or_remove(path, STAGE, config, inputs, overwrite):
        say(f"{path} is up to date")
        return RegionIndex.load(path, store)
    row_map = RowMap.of(store)
    kind = choose_kind(kind, len(row_map), store.dim, memory)
    rng = np.random.default_rng(seed)
    with publish(path, Manifest("region_index", STAGE, config, inputs)) as (temporary, manifest):
        index = untrained_index(kind, len(row_map), store.dim, seed)
        sample = np.sort(rng.choice(len(row_map), training_rows(kind, len(row_map)), replace=False))
        if len(sample):
            say(f"learning {index.nlist:,} lists from {len(sample):,} of {len(row_map):,} rows")
            train(index, take_rows(store, row_map, sample).astype(np.float32))
        sets = [] if kind == "exact" else _query_sets(store, row_map, texts_TD, rng)
        best = [BestRows(queries.rows_QD, max(REPORTED) + 1) for queries in sets]
        add = adder(kind, index)
        for first, rows_BD in row_blocks(store):
            add(rows_BD.astype(np.float32))
            for queries in best:
                queries.add(first, rows_BD)
            progress(len(rows_BD))
        counts = {"kind": kind, "rows": len(row_map), "images": len(store), "dim": store.dim}
        if sets:
            say("measuring recall")
            counts["lists"] = index.nlist
            counts |= choose_effort(
                lambda refine: RegionIndex(kind, row_map, store.dim, index, store, counts={"refine": refine}), index,
                sets, [queries.result()[1] for queries in best], recall)
            index.nprobe = counts["nprobe"]
        with open(temporary, "wb") as file:  # neither faiss nor numpy notices when the end of a file is not written
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
            counts["faiss_bytes"] = file.tell()
            for array in (row_map.image_ids, row_map.offsets):
                buffer = io.BytesIO()
                np.save(buffer, array)
                file.write(buffer.getbuffer())
            counts["bytes_per_row"] = round(file.tell() / len(row_map), 1)
        manifest.counts = counts
    return RegionIndex.load(path, store)


def _query_sets(store: RegionStore, row_map: RowMap, texts_TD: np.ndarray | None,
                rng: np.random.Generator) -> list[QuerySet]:
    rows = np.sort(rng.choice(len(row_map), min(SAMPLE, len(row_map)), replace=False))
    sets = [QuerySet("regions", take_rows(store, row_map, rows).astype(np.float32), rows)]
    if texts_TD is not None and len(texts_TD):
        chosen = np.sort(rng.choice(len(texts_TD), min(SAMPLE, len(texts_TD)), replace=False))
        sets.append(QuerySet("texts", np.asarray(texts_TD, np.float32)[chosen]))
    return sets
