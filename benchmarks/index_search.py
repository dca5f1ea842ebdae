"""Index over a store's regions, of each kind: build, query, recall and memory, against exact search in memory.

The store holds unit rows of a mixture of Gaussians (a centre for every 200 rows), so that lists mean something; queries
are other draws of the same mixture. Peers hold all rows as float32: a matrix product in NumPy with a partial sort, and
faiss's flat index. The exact index has to agree with both before anything is timed. The rounds alternate, medians
count. The peer of a build is reading the store into one float32 matrix.

    python benchmarks/index_search.py
    python benchmarks/index_search.py --rows 2000000 --dim 512 --kinds exact ivf ivf-pq --memory 8
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
from figures import print_figure
from tqdm import tqdm

from ovd.stores.index_kinds import KINDS
from ovd.stores.region_index import RegionIndex, build_index
from ovd.stores.region_rows import row_blocks
from ovd.stores.shards import Regions, RegionStore

REGIONS = 100  # an image
ROWS_A_CENTRE = 200
SPREAD = 0.8  # length of the noise on a centre of length 1
BATCHES = (1, 64)
K = 20


def draw(rng: np.random.Generator, centres_CD: np.ndarray, count: int) -> np.ndarray:
    """``count`` unit rows of the mixture, float32."""
    dim = centres_CD.shape[1]
    noise = rng.standard_normal((count, dim), dtype=np.float32) * np.float32(SPREAD / np.sqrt(dim))
    rows = centres_CD[rng.integers(len(centres_CD), size=count)] + noise
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_store(path: Path, centres_CD: np.ndarray, rows: int) -> RegionStore:
    """A region store of ``rows`` rows, rounded up to whole images."""
    rng = np.random.default_rng(1)
    boxes, scores = np.tile(np.float32([0, 0, 8, 8]), (REGIONS, 1)), np.ones(REGIONS, np.float32)
    writer = RegionStore.create(path, "regions", range(-(-rows // REGIONS)), dim=centres_CD.shape[1])
    for shard in tqdm(range(writer.total_shards), desc="writing the store", unit=" shards"):
        writer.write(shard, {image_id: Regions(boxes, scores, draw(rng, centres_CD, REGIONS).astype(np.float16))
                             for image_id in writer.image_ids(shard)})
    writer.finish("embed-regions", {}, {})
    return RegionStore(path)


def read_matrix(store: RegionStore) -> np.ndarray:
    """All rows as one float32 matrix: what the peers search."""
    matrix_ND = np.empty((store.manifest.counts["regions"], store.dim), np.float32)
    for first, rows_BD in row_blocks(store):
        matrix_ND[first:first + len(rows_BD)] = rows_BD
    return matrix_ND


def numpy_search(matrix_ND: np.ndarray, queries_QD: np.ndarray) -> np.ndarray:
    """Rows ``[Q, K]`` of the largest products, best first."""
    scores_QN = queries_QD @ matrix_ND.T
    best_QK = np.argpartition(scores_QN, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(scores_QN, best_QK, 1), axis=1)
    return np.take_along_axis(best_QK, order, 1)


def batches(queries_QD: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (queries_QD[start:start + size] for start in range(0, len(queries_QD) - size + 1, size))


def timed(search: Callable[[np.ndarray], object], queries_QD: np.ndarray, size: int) -> float:
    """Milliseconds a query, over the first 64 queries in batches of ``size``."""
    start, count = time.perf_counter(), 0
    for batch_BD in batches(queries_QD[:64], size):
        search(batch_BD)
        count += len(batch_BD)
    return 1000 * (time.perf_counter() - start) / count


def recall_at_10(found_QK: np.ndarray, truth_QK: np.ndarray) -> float:
    """Share of the ten nearest that are among the first ten found."""
    return float(np.mean([np.isin(truth[:10], found[:10]).mean() for found, truth in zip(found_QK, truth_QK)]))


def check_exact(matrix_ND: np.ndarray, queries_QD: np.ndarray, rows_QK: np.ndarray, truth_QK: np.ndarray) -> None:
    """Fail unless two searches agree but for products that are equal to rounding."""
    ours, theirs = (np.einsum("qd,qkd->qk", queries_QD, matrix_ND[rows]) for rows in (rows_QK, truth_QK))
    if not np.allclose(ours, theirs, atol=1e-5):
        raise SystemExit("exact searches disagree; nothing was timed")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--memory", type=float, default=4, metavar="GIB")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    centres_CD = draw(rng, np.zeros((1, args.dim), np.float32), max(1, args.rows // ROWS_A_CENTRE))
    queries_QD = draw(rng, centres_CD, max(args.queries, 64))
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder, "regions"), centres_CD, args.rows)
        build_seconds = {}
        start = time.perf_counter()
        matrix_ND = read_matrix(store)
        reading = time.perf_counter() - start
        indices = {}
        for kind in args.kinds:
            start = time.perf_counter()
            indices[kind] = build_index(store, Path(folder, kind), kind, memory=round(args.memory * 2**30))
            build_seconds[kind] = time.perf_counter() - start
        flat = faiss.IndexFlatIP(args.dim)
        flat.add(matrix_ND)
        compare(store, matrix_ND, flat, indices, build_seconds, reading, queries_QD, args.rounds)


def compare(store: RegionStore, matrix_ND: np.ndarray, flat: faiss.Index, indices: dict[str, RegionIndex],
            build_seconds: dict[str, float], reading: float, queries_QD: np.ndarray, rounds: int) -> None:
    """Check, time in alternating rounds, and print the figures."""
    size = f"{len(matrix_ND):,} x {store.dim}"
    truth_QK = np.concatenate([numpy_search(matrix_ND, batch) for batch in batches(queries_QD, 64)])
    queries_QD = queries_QD[:len(truth_QK)]
    scan = RegionIndex.scan(store)
    searches = {"numpy": lambda queries: numpy_search(matrix_ND, queries),
                "faiss flat": lambda queries: flat.search(queries, K),
                "scan": lambda queries: scan.search(queries, K),
                **{kind: lambda queries, index=index: index.search(queries, K) for kind, index in indices.items()}}
    found = {name: search(queries_QD)[1] for name, search in searches.items() if name != "numpy"}
    for name in ("faiss flat", "scan", "exact"):
        if name in found:
            check_exact(matrix_ND, queries_QD, found[name], truth_QK)
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, search in searches.items():
            for batch in BATCHES[1:] if name == "scan" else BATCHES:  # one query at a time would only read again
                times.setdefault((name, batch), []).append(timed(search, queries_QD, batch))
    middle = {key: statistics.median(values) for key, values in times.items()}
    for name in ("scan", *indices):
        for batch in BATCHES:
            if (name, batch) in middle:
                for peer in ("numpy", "faiss flat"):
                    print_figure(f"search, {name}, {size}, batch of {batch}", middle[name, batch], "ms a query",
                                 f"{peer}, float32 in memory", middle[peer, batch])
    for kind, index in indices.items():
        print_figure(f"index build, {kind}, {size}", build_seconds[kind], "s", "reading the store as float32", reading)
        print_figure(f"index size, {kind}, {size}", index.counts["bytes_per_row"], "bytes a row", "float32 rows",
                     4 * store.dim)
        print_figure(f"recall at 10, {kind}, {size}", recall_at_10(found[kind], truth_QK), "share", "exact search", 1.0,
                     higher_is_better=True)


if __name__ == "__main__":
    main()
