"""The kinds of index over regions, which of them suits how many rows, and the faiss index of each.

    exact   every row, float16               2 D bytes a row        rows up to 1 GiB, which a core scans in 0.1 s
    ivf     the same rows in lists           2 D + 8 bytes a row    as long as they fit into the memory that is allowed
    ivf-pq  a code of D / 8 bytes in lists   D / 8 + 8 bytes a row  beyond; the best are compared again in the store

Scores of the first two are those of the store's own rows, to rounding in float32; so are those of the third once the
best have been compared again.
"""

import math

import faiss
import numpy as np

from ovd.errors import UserError, nearest

KINDS = ("exact", "ivf", "ivf-pq")
EXACT_BYTES = 1 << 30  # of float16 rows; up to here "auto" is exact
MEMORY = 4 << 30  # bytes of an index where nobody says otherwise
_CODES = 256  # centroids of a part of a row: one byte of code
_TRAINED_ON = 64  # rows a list
_GPU_MOST = 2048  # hits of a query, and lists that it looks into, on a GPU
_GPU_CODES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 48, 56, 64, 96)  # bytes of a code that faiss has kernels for


def bytes_per_row(kind: str, dim: int) -> int:
    """Memory and disk that a row takes in an index of this kind; lists' centroids and image ids come on top."""
    return {"exact": 2 * dim, "ivf": 2 * dim + 8, "ivf-pq": code_size(dim) + 8}[kind]


def code_size(dim: int) -> int:
    """Bytes of a product-quantised row: one for every 8 numbers, or the nearest smaller divisor of ``dim``."""
    return next(parts for parts in range(max(1, dim // 8), 0, -1) if dim % parts == 0)


def number_of_lists(rows: int) -> int:
    """Lists of an inverted file: about 2 sqrt(rows), a power of two, with 8 rows or more in each."""
    return 1 << int(math.log2(max(1, min(2 * math.sqrt(rows), rows / 8))))


def training_rows(kind: str, rows: int) -> int:
    """How many rows the lists, and the codes, are learned from."""
    wanted = _TRAINED_ON * max(number_of_lists(rows), _CODES if kind == "ivf-pq" else 0)
    return 0 if kind == "exact" else min(rows, wanted)


def choose_kind(wanted: str, rows: int, dim: int, memory: int = MEMORY) -> str:
    """The kind to build.

    Args:
        wanted: one of :data:`KINDS`, or ``"auto"``: exact up to 1 GiB of float16 rows, then ivf while it fits into
            ``memory``, then ivf-pq.
        memory: bytes that the index may take.

    Raises:
        UserError: an unknown kind; an index that would take more; too few rows for codes.
    """
    if wanted not in ("auto", *KINDS):
        raise UserError(f"no index of kind {wanted!r}{nearest(wanted, ('auto', *KINDS))}")
    kind = wanted
    if wanted == "auto":
        kind = "exact" if rows * 2 * dim <= min(EXACT_BYTES, memory) else \
            "ivf" if rows * bytes_per_row("ivf", dim) <= memory or rows < _CODES else "ivf-pq"
    needed = rows * bytes_per_row(kind, dim)
    if needed > memory:
        smaller = ", or a smaller kind (ivf-pq)" if kind != "ivf-pq" else ""
        raise UserError(f"an index of kind {kind} over {rows:,} rows of width {dim} takes {needed / 2**30:.2f} GiB, "
                        f"more than the {memory / 2**30:g} GiB allowed: allow more with --memory{smaller}")
    if kind == "ivf-pq" and rows < _CODES:
        raise UserError(f"an index of kind ivf-pq learns its codes from {_CODES} rows or more, here are {rows}: choose "
                        "exact")
    return kind


def untrained_index(kind: str, rows: int, dim: int, seed: int) -> faiss.Index:
    """A faiss index for ``rows`` rows that holds none yet."""
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "exact":
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric)
        index.train(np.zeros((1, dim), np.float32))  # half floats have nothing to learn, faiss asks for it still
        return index
    quantizer, lists = faiss.IndexFlatIP(dim), number_of_lists(rows)
    if kind == "ivf":  # the rows themselves, not what they differ from their list's centroid by: nothing is lost
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, faiss.ScalarQuantizer.QT_fp16, metric, False)
    else:
        index = faiss.IndexIVFPQ(quantizer, dim, lists, code_size(dim), 8, metric)
        index.pq.cp.seed, index.pq.cp.min_points_per_centroid = seed, 1
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    return index


def train(index: faiss.Index, rows_ND: np.ndarray) -> None:
    """Learn lists and codes from float32 rows; the lists on the GPUs that faiss has."""
    if not gpus():
        index.train(rows_ND)
        return
    on_gpus = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(index.d))
    index.clustering_index = on_gpus
    index.train(rows_ND)
    index.clustering_index = None
    on_gpus.this.own(True)  # the assignment took it from Python, and nobody else would free the GPUs' memory


def adder(kind: str, index: faiss.Index):
    """A function that adds float32 rows ``[B, D]`` to a trained index; GPUs, where faiss has some, find the lists."""
    if kind == "exact" or not gpus():
        return index.add
    from faiss.contrib.ivf_tools import add_preassigned

    quantizer = faiss.index_cpu_to_all_gpus(faiss.downcast_index(index.quantizer))
    return lambda rows_BD: add_preassigned(index, rows_BD, quantizer.search(rows_BD, 1)[1][:, 0])


def opened(path: str, kind: str) -> tuple[faiss.Index, int]:
    """The index of a file and how many hits it can give: on the GPUs that faiss has, else with its lists mapped.

    GPUs have no kernels for some lengths of code (embeddings of width 640 and 1024, for one) and look into 2048 lists
    at most; such an index stays with the processor.
    """
    if kind == "exact":
        return faiss.read_index(path), np.iinfo(np.int64).max
    index = faiss.read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    if gpus() and index.nprobe <= _GPU_MOST and (kind != "ivf-pq" or index.pq.code_size in _GPU_CODES):
        options = faiss.GpuMultipleClonerOptions()
        options.useFloat16 = True  # of float32, the tables for more than 48 bytes do not fit into shared memory
        return faiss.index_cpu_to_all_gpus(faiss.read_index(path), options), _GPU_MOST
    return index, np.iinfo(np.int64).max


def gpus() -> int:
    """GPUs that faiss can use; none with faiss-cpu."""
    return faiss.get_num_gpus()
