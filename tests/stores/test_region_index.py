"""The index over a store's regions, against plain sorting of all inner products."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.stores import index_kinds, region_index
from ovd.stores.index_kinds import bytes_per_row, choose_kind, code_size, number_of_lists
from ovd.stores.index_recall import QuerySet, recall
from ovd.stores.manifest import Manifest
from ovd.stores.region_index import RegionIndex, build_index, index_file
from ovd.stores.region_rows import BestRows, RowMap, row_blocks, take_rows
from ovd.stores.shards import Regions, RegionStore

WIDTH = 16
KINDS = ("exact", "ivf", "ivf-pq")


def write_store(path, counts, width=WIDTH, seed=0, clusters=20, spread=0.4, stored="float16"):
    """A store whose image 7 + 3 i has counts[i] regions: unit rows about a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, width))
    writer = RegionStore.create(path, "regions", [7 + 3 * i for i in range(len(counts))], images_per_shard=4,
                                dim=width, config=seed, rows=stored)
    for shard in range(writer.total_shards):
        contents = {}
        for image_id in writer.image_ids(shard):
            n = counts[(image_id - 7) // 3]
            rows = centres[rng.integers(clusters, size=n)] / np.sqrt(width) + \
                spread * rng.normal(size=(n, width)) / np.sqrt(width)
            rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
            boxes = np.tile(np.float32([0, 0, 4, 4]), (n, 1))
            contents[image_id] = Regions(boxes, np.ones(n, np.float32), rows)
        writer.write(shard, contents)
    writer.finish("embed-regions", {}, {"clip": "sha256:tiny"})
    return RegionStore(path)


def matrix(store):
    """All rows in order of image id, and where each is: the slow, plain way."""
    ids = sorted(store.image_ids.tolist())
    rows = [(image_id, position, row) for image_id in ids for position, row in enumerate(store[image_id].embeddings)]
    return np.stack([row for *_, row in rows]).astype(np.float32), [(a, b) for a, b, _ in rows]


def plain_search(rows_ND, queries_QD, k):
    scores = queries_QD @ rows_ND.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def unit(rng, count, width=WIDTH):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    counts = np.random.default_rng(1).integers(0, 200, 21)
    counts[[0, 5, 6, 20]] = 0  # images without regions, the first and the last among them
    return write_store(tmp_path_factory.mktemp("store") / "regions", counts.tolist())


@pytest.fixture(scope="module")
def built(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    return {kind: build_index(store, folder / f"{kind}.faiss", kind) for kind in KINDS}


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_rows_are_located_where_the_store_has_them(tmp_path_factory, counts, seed):
    counts = [*counts, 1]
    small = write_store(tmp_path_factory.mktemp("rows") / "regions", counts, seed=seed)
    rows_ND, places = matrix(small)
    row_map = RowMap.of(small)
    image_ids, positions = row_map.locate(np.arange(len(row_map)))
    assert list(zip(image_ids.tolist(), positions.tolist())) == places
    for image_id, count in zip(small.image_ids.tolist(), counts):
        expected = [row for row, (owner, _) in enumerate(places) if owner == image_id]
        assert list(row_map.of_image(image_id)) == expected and len(expected) == count
    wanted = np.random.default_rng(seed).integers(len(row_map), size=7)
    assert np.array_equal(take_rows(small, row_map, wanted), rows_ND[wanted].astype(np.float16))
    assert take_rows(small, row_map, np.zeros(0, np.int64)).shape == (0, WIDTH)
    for size in (1, 3, 1000):
        blocks = list(row_blocks(small, size))
        assert [first for first, _ in blocks] == list(range(0, len(row_map), size))
        assert np.array_equal(np.concatenate([rows for _, rows in blocks]), rows_ND.astype(np.float16))


def test_rows_that_are_not_there_are_refused(store):
    row_map = RowMap.of(store)
    for rows in ([-1], [len(row_map)]):
        with pytest.raises(IndexError, match="rows must be"):
            row_map.locate(np.array(rows))
    with pytest.raises(KeyError):
        row_map.of_image(8)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), k=st.integers(1, 12), size=st.integers(1, 15), seed=st.integers(0, 99))
def test_best_rows_over_blocks_are_those_of_a_plain_sort(rows, k, size, seed):
    rng = np.random.default_rng(seed)
    rows_ND = unit(rng, rows).astype(np.float16)
    rows_ND[rng.integers(rows, size=rows // 4)] = rows_ND[0]  # equal rows, in order
    queries = unit(rng, 3)
    best = BestRows(queries, k)
    for first in range(0, rows, size):
        best.add(first, rows_ND[first:first + size])
    scores, found = best.result()
    expected_scores, _ = plain_search(rows_ND.astype(np.float32), queries, k)
    there = min(k, rows)
    np.testing.assert_allclose(scores[:, :there], expected_scores, atol=1e-6)
    own = np.einsum("qd,qkd->qk", queries, rows_ND.astype(np.float32)[found[:, :there]])
    np.testing.assert_allclose(own, scores[:, :there], atol=1e-6)
    assert all(len(set(line)) == there for line in found[:, :there].tolist())
    assert (found[:, there:] == -1).all() and np.isneginf(scores[:, there:]).all()


@pytest.mark.parametrize("count", (1, 9, 40))
@pytest.mark.parametrize("kind", ("exact", "scan"))
def test_exact_kinds_find_what_a_plain_sort_finds(store, built, kind, count, monkeypatch):
    monkeypatch.setattr(region_index, "BLOCK", 100)
    monkeypatch.setattr(region_index, "_SCANNED", 32)
    index = RegionIndex.scan(store) if kind == "scan" else built[kind]
    rows_ND, places = matrix(store)
    queries = unit(np.random.default_rng(2), count)
    scores, rows = index.search(queries, 13)
    expected_scores, expected = plain_search(rows_ND, queries, 13)
    assert scores.dtype == np.float32 and rows.dtype == np.int64
    assert np.array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    image_ids, positions = index.locate(rows[0])
    assert list(zip(image_ids.tolist(), positions.tolist())) == [places[row] for row in expected[0]]
    assert (len(index), index.kind, index.clip) == (len(rows_ND), kind, "sha256:tiny")


@pytest.mark.parametrize("kind", ("ivf", "ivf-pq"))
def test_recall_reaches_its_target_and_is_what_was_measured(store, built, kind):
    index = built[kind]
    assert index.counts["reached"] and index.counts["recall"]["regions"]["10"] >= 0.95
    rows_ND, _ = matrix(store)
    picks = np.random.default_rng(3).choice(len(rows_ND), 200, replace=False)
    found = index.search(rows_ND[picks], 11)[1]
    truth = plain_search(rows_ND, rows_ND[picks], 11)[1]
    shares = [len({*a} & {*b} - {row}) / 10 for a, b, row in zip(found.tolist(), truth.tolist(), picks.tolist())]
    assert np.mean(shares) >= 0.9  # other rows than those that it was measured with


@pytest.mark.parametrize("kind", ("ivf", "ivf-pq"))
def test_scores_of_inexact_kinds_are_the_cosines_of_the_rows_they_name(store, built, kind):
    queries = unit(np.random.default_rng(4), 5)
    scores, rows = built[kind].search(queries, 8)
    assert (rows >= 0).all()
    own = np.einsum("qd,qkd->qk", queries, matrix(store)[0][rows])
    np.testing.assert_allclose(scores, own, atol=2e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("count", (2, 20))
@pytest.mark.parametrize("kind", KINDS)
def test_more_hits_than_rows_are_padded(store, built, kind, count):
    rows = len(built[kind])
    scores, found = built[kind].search(unit(np.random.default_rng(5), count), rows + 3)
    assert found.shape == (count, rows + 3)
    assert (found[:, rows:] == -1).all() and np.isneginf(scores[:, rows:]).all()
    assert np.array_equal(found == -1, np.isneginf(scores))


@pytest.mark.parametrize("kind", KINDS)
def test_same_store_and_seed_give_the_same_bytes(store, built, tmp_path, kind):
    build_index(store, tmp_path / "again", kind)
    again, first = Manifest.read(tmp_path / "again"), built[kind].counts
    assert again.content == Manifest.read(built[kind].path).content and again.counts == first
    if kind != "exact":
        build_index(store, tmp_path / "other", kind, seed=1)
        assert Manifest.read(tmp_path / "other").content != again.content


def test_a_current_index_is_opened_and_a_stale_one_refused(store, tmp_path, monkeypatch):
    path = tmp_path / "a.faiss"
    build_index(store, path, "exact")
    with monkeypatch.context() as patch:
        patch.setattr(region_index, "publish", None)  # would fail if it built
        build_index(store, path, "exact")
    with pytest.raises(UserError, match=r'another configuration: kind was "exact", now "ivf".*--overwrite'):
        build_index(store, path, "ivf")
    other = write_store(tmp_path / "other", [30, 30], seed=8)
    with pytest.raises(UserError, match=r"another 'regions'.*ovd build-index"):
        RegionIndex.load(path, other)
    assert len(RegionIndex.load(path)) == len(RowMap.of(store))  # without a store there is nothing to compare
    with pytest.raises(UserError, match="was made from another 'regions'"):
        build_index(other, path, "exact")
    assert len(build_index(other, path, "exact", overwrite=True)) == 60


def test_a_damaged_index_is_refused(store, tmp_path):
    path = tmp_path / "a.faiss"
    build_index(store, path, "ivf")
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(UserError, match="bytes instead of"):
        RegionIndex.load(path)
    path.write_bytes(b"nope" + data[4:])
    with pytest.raises(UserError, match=r"cannot be read as an index.*--overwrite"):
        RegionIndex.load(path)
    with pytest.raises(UserError, match="no such index; make it with ovd build-index"):
        RegionIndex.load(tmp_path / "absent.faiss")


def test_a_build_that_fails_leaves_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(region_index.faiss, "write_index", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        build_index(store, tmp_path / "a.faiss", "exact")
    assert not list(tmp_path.iterdir())


def test_queries_of_another_width_are_refused(store, built):
    for index in (*built.values(), RegionIndex.scan(store)):
        with pytest.raises(UserError, match="the regions have width 16"):
            index.search(np.zeros((1, 8), np.float32), 3)
        with pytest.raises(UserError, match="not finite"):
            index.search(np.full((1, WIDTH), np.nan, np.float32), 3)
        assert index.search(np.zeros((0, WIDTH), np.float32), 3)[1].shape == (0, 3)


def test_stores_without_embeddings_or_regions_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no regions"):
        RegionIndex.scan(write_store(tmp_path / "empty", [0, 0]))
    writer = RegionStore.create(tmp_path / "proposals", "proposals", [1])
    writer.write(0, {1: Regions(np.float32([[0, 0, 1, 1]]), np.float32([1]))})
    writer.finish("proposals", {}, {})
    with pytest.raises(UserError, match="a store of proposals has no embeddings"):
        RegionIndex.scan(RegionStore(tmp_path / "proposals"))


def test_a_single_region_can_be_indexed(tmp_path):
    one = write_store(tmp_path / "one", [1])
    for kind in ("exact", "ivf"):
        index = build_index(one, tmp_path / kind, kind)
        assert index.search(matrix(one)[0], 2)[1].tolist() == [[0, -1]]


def test_a_store_of_int8_rows_is_searched_as_it_reads(tmp_path):
    small = write_store(tmp_path / "int8", [40, 0, 30], stored="int8")
    rows_ND, _ = matrix(small)
    queries = unit(np.random.default_rng(9), 3)
    expected_scores, expected = plain_search(rows_ND, queries, 5)
    for index in (RegionIndex.scan(small), build_index(small, tmp_path / "a.faiss", "exact")):
        scores, rows = index.search(queries, 5)
        assert np.array_equal(rows, expected)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_text_queries_count_for_the_effort(store, tmp_path):
    texts = unit(np.random.default_rng(6), 30)  # far from all rows, so their neighbours are in many lists
    index = build_index(store, tmp_path / "a", "ivf", texts_TD=texts)
    assert index.counts["recall"]["texts"]["10"] >= 0.95
    assert index.counts["nprobe"] > build_index(store, tmp_path / "b", "ivf").counts["nprobe"]
    with pytest.raises(UserError, match="texts have width 8"):
        build_index(store, tmp_path / "c", "ivf", texts_TD=texts[:, :8])


def test_kinds_by_size():
    assert choose_kind("auto", 1_000_000, 512) == "exact"
    assert choose_kind("auto", 3_000_000, 512) == "ivf"
    assert choose_kind("auto", 30_000_000, 512) == "ivf-pq"
    assert choose_kind("auto", 30_000_000, 512, memory=64 << 30) == "ivf"
    with pytest.raises(UserError, match=r"28.83 GiB, more than the 4 GiB allowed.*--memory, or a smaller kind"):
        choose_kind("ivf", 30_000_000, 512)
    with pytest.raises(UserError, match="more than the 4 GiB"):
        choose_kind("auto", 1_000_000_000, 512)
    with pytest.raises(UserError, match="256 rows or more, here are 255"):
        choose_kind("ivf-pq", 255, 512)
    with pytest.raises(UserError, match="did you mean ivf"):
        choose_kind("iwf", 10, 4)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 10**9), dim=st.integers(1, 1100))
def test_sizes_of_an_index_are_sound(rows, dim):
    lists = number_of_lists(rows)
    assert 1 <= lists <= max(1, rows) and lists & (lists - 1) == 0
    assert dim % code_size(dim) == 0 and code_size(dim) <= max(1, dim / 8)
    assert bytes_per_row("ivf-pq", dim) <= bytes_per_row("ivf", dim)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_per_row_are_those_of_the_file(store, built, kind):
    size = built[kind].path.stat().st_size
    counts = built[kind].counts
    overhead = 16 * (len(store) + 1) + 4 * WIDTH * (counts.get("lists", 0) + 256) + 8 * counts.get("lists", 0) + 1000
    assert 0 < size - len(built[kind]) * bytes_per_row(kind, WIDTH) < overhead


@pytest.mark.parametrize("kind", ("ivf", "ivf-pq"))
def test_lists_found_elsewhere_give_the_same_index(store, built, tmp_path, monkeypatch, kind):
    """The way through a GPU, with a processor in its place."""
    monkeypatch.setattr(index_kinds, "gpus", lambda: 1)
    moved = []
    monkeypatch.setattr(index_kinds.faiss, "index_cpu_to_all_gpus",
                        lambda index, options=None: moved.append(options) or index, raising=False)
    monkeypatch.setattr(index_kinds.faiss, "GpuMultipleClonerOptions", SimpleNamespace, raising=False)
    index = build_index(store, tmp_path / "a", kind)
    assert Manifest.read(tmp_path / "a").content == Manifest.read(built[kind].path).content
    assert [vars(options) for options in moved if options] == [{"useFloat16": True}]
    queries = unit(np.random.default_rng(7), 4)
    assert np.array_equal(index.search(queries, 5)[1], built[kind].search(queries, 5)[1])
    moved.clear()
    monkeypatch.setattr(index_kinds, "_GPU_CODES", (1, 3))  # no kernel for codes of 2 bytes
    RegionIndex.load(tmp_path / "a")
    assert len(moved) == (kind == "ivf")
    monkeypatch.setattr(index_kinds, "_GPU_MOST", 0)  # too many lists to look into
    moved.clear()
    RegionIndex.load(tmp_path / "a")
    assert not moved


def test_recall_counts_neighbours_found_and_not_the_query_itself():
    class Fixed:
        def search(self, queries_QD, k):
            return None, np.array([[5, 1, 9, 3], [2, 7, 8, -1]])

    truth = np.array([[5, 1, 2, 3], [7, 2, 8, -1]])
    queries = QuerySet("regions", np.zeros((2, 1), np.float32), np.array([5, 2]))
    # of 1 2 3 are found 1 3 (the nearest is); of 7 8 both are
    assert recall(Fixed(), queries, truth) == {"1": 1.0, "10": round((2 / 3 + 1) / 2, 4), "20": round(5 / 6, 4)}
    assert recall(Fixed(), QuerySet("texts", queries.rows_QD), truth)["1"] == 0.5


def test_an_index_lies_beside_its_store():
    assert index_file("data/regions/train").as_posix() == "data/regions/train.faiss"
