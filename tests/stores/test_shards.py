"""Region stores: what is written is read, whatever is interrupted or damaged is noticed, other data is refused."""

import hashlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.stores.layout import Shard
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, require
from ovd.stores.shards import Regions, RegionStore

STAGE, CONFIG, INPUTS = "embed-regions", {"top_k": 3}, {"proposals": "sha256:1"}


def make_regions(image_id: int, dim: int | None, count: int | None = None) -> Regions:
    rng = np.random.default_rng(image_id + 1000)
    count = int(rng.integers(0, 6)) if count is None else count
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (count, 2))], 1).astype(np.float32)
    embeddings = None
    if dim is not None:
        raw = rng.normal(size=(count, dim))
        embeddings = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)
    return Regions(boxes, np.sort(rng.uniform(size=count).astype(np.float32))[::-1], embeddings)


def write_store(path, ids, per_shard=4, dim=8, make=make_regions, shards=None, rows="float16"):
    kind = "proposals" if dim is None else "regions"
    writer = RegionStore.create(path, kind, ids, per_shard, dim, rows=rows, config=CONFIG)
    for shard in writer.missing() if shards is None else shards:
        writer.write(shard, {i: make(i, dim) for i in writer.image_ids(shard)})
    if shards is None:
        writer.finish(STAGE, CONFIG, INPUTS)
    return writer


def files(path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(Path(path).iterdir()) if f.name != "manifest.json"}


def assert_same(a: Regions, b: Regions) -> None:
    assert a.boxes.dtype == np.float32 and a.scores.dtype == np.float32
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.scores, b.scores)
    assert (a.embeddings is None) == (b.embeddings is None)
    if a.embeddings is not None:
        assert a.embeddings.dtype == np.float16
        np.testing.assert_array_equal(a.embeddings, b.embeddings)


@pytest.fixture
def store(tmp_path):
    write_store(tmp_path / "store", range(10, 20))
    return tmp_path / "store"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_is_read(data):
    ids = data.draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=12, unique=True))
    per_shard, dim = data.draw(st.integers(1, 14)), data.draw(st.sampled_from([None, 1, 5, 8]))
    counts = dict(zip(ids, data.draw(st.lists(st.integers(0, 9), min_size=len(ids), max_size=len(ids)))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        writer = write_store(path, ids, per_shard, dim, lambda i, d: make_regions(i % 9999, d, counts[i]))
        assert writer.missing() == [] and writer.total_shards == -(-len(ids) // per_shard)
        store = RegionStore(path, mapped_shards=data.draw(st.integers(1, 3)))
        assert store.image_ids.tolist() == sorted(ids) and len(store) == len(ids)
        assert (store.kind, store.dim) == ("proposals" if dim is None else "regions", dim)
        for image_id in data.draw(st.permutations(ids * 2)):
            expected = make_regions(image_id % 9999, dim, counts[image_id])
            assert image_id in store
            assert_same(store[image_id], expected)
            assert_same(store.view(image_id), expected)
        assert store.verify() == sum(counts.values())
        assert store.manifest.counts["regions"] == sum(counts.values())


@pytest.mark.parametrize("dim", [None, 8])
def test_the_same_regions_give_the_same_bytes_in_another_process(tmp_path, dim):
    write_store(tmp_path / "a", range(30), 7, dim)
    code = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_shards import write_store
        junk = [bytearray(b"junk" * 10_000) for _ in range(100)]; del junk
        write_store(sys.argv[2], reversed(range(30)), 7, None if sys.argv[3] == "None" else int(sys.argv[3]))
    """
    time.sleep(1.1)  # HDF5 time stamps would have seconds
    subprocess.run([sys.executable, "-c", code, Path(__file__).parent, tmp_path / "b", str(dim)], check=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_int8_rows_are_read_as_float16_units_close_to_what_was_written(tmp_path):
    write_store(tmp_path / "store", range(10), dim=64, rows="int8")
    store = RegionStore(tmp_path / "store")
    assert store.rows == "int8" and RegionStore.create(tmp_path / "store", "regions", range(10), 4, 64, rows="int8",
                                                       config=CONFIG).missing() == []
    for image_id in range(10):
        expected, found = make_regions(image_id, 64), store[image_id]
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        assert found.embeddings.dtype == np.float16 and found.embeddings.flags.writeable
        assert not store.view(image_id).embeddings.flags.writeable
        cosines = (found.embeddings.astype(float) * expected.embeddings.astype(float)).sum(1)
        assert (cosines > 0.9995).all()
        found.check(image_id, 64)
    with h5py.File(tmp_path / "store/shard-00000-of-00003.h5") as file:
        assert file["embedding"].dtype == np.int8 and file["scale"].dtype == np.float32
    assert store.verify() == store.manifest.counts["regions"]
    with pytest.raises(UserError, match=r"another type of rows \(int8, now float16\)"):
        RegionStore.create(tmp_path / "store", "regions", range(10), 4, 64, config=CONFIG)


def test_a_float16_store_is_what_it_was_before_there_were_other_rows(store):
    assert RegionStore(store).rows == "float16"
    assert "rows" not in json.loads((store / "plan.json").read_bytes())
    digest = hashlib.sha256((store / "plan.json").read_bytes()).hexdigest()
    assert digest == "96ef560008e13eb6a486cb5ff3a2607df0c87449a1d1496ef25e4df7e5a579a0"
    content = Shard(store / "shard-00001-of-00003.h5").sha256
    assert content == "sha256:dca4269de1156b488a88d9dae85e2680cb7f19401b7821fb42db5fa2ad837d13"


def test_the_layout_is_the_documented_one(store):
    with h5py.File(store / "shard-00001-of-00003.h5") as file:
        assert file["image_id"][:].tolist() == [14, 15, 16, 17]
        offset = file["offset"][:]
        expected = make_regions(15, 8)
        np.testing.assert_array_equal(file["boxes"][offset[1]:offset[2]], expected.boxes)
        np.testing.assert_array_equal(file["score"][offset[1]:offset[2]], expected.scores)
        np.testing.assert_array_equal(file["embedding"][offset[1]:offset[2]], expected.embeddings)
        assert [file[n].dtype for n in ("image_id", "offset", "boxes", "score", "embedding")] == [
            "i8", "i8", "f4", "f4", "f2"]


def test_reads_are_the_callers_own_and_views_are_read_only(store):
    opened = RegionStore(store)
    image_id = next(i for i in opened.image_ids if len(opened[i]))
    opened[image_id].boxes[:] = 0
    opened[image_id].embeddings[:] = 0
    assert_same(opened[image_id], make_regions(image_id, 8))
    with pytest.raises(ValueError):
        opened.view(image_id).embeddings[:] = 0


def test_views_outlive_the_mapping(store):
    opened = RegionStore(store, mapped_shards=1)
    views = {i: opened.view(i) for i in opened.image_ids.tolist()}
    for image_id, view in views.items():
        assert_same(view, make_regions(image_id, 8))


def test_no_more_shards_are_mapped_than_asked_for(store):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see what is mapped")
    opened = RegionStore(store, mapped_shards=2)
    for image_id in [*opened.image_ids, *opened.image_ids]:
        _ = opened[image_id]
        assert 1 <= sum(str(store) in line for line in maps.read_text().splitlines()) <= 2


def test_an_unknown_image_is_one_clear_line(store):
    opened = RegionStore(store)
    assert 9 not in opened and 20 not in opened and "10" not in opened and np.int64(10) in opened
    for read in (opened.__getitem__, opened.view):
        with pytest.raises(UserError, match=r"store: holds no regions of 1 image\(s\), e\.g\. image id 99 .*10 to 19"):
            read(99)
    opened.require_images([10, 19])
    with pytest.raises(UserError, match=r"2 image\(s\), e\.g\. image id 3 "):
        opened.require_images([10, 4, 3])


def bad(**changes):
    good = make_regions(10, 8, 3)
    arrays = {"boxes": good.boxes.copy(), "scores": good.scores.copy(), "embeddings": good.embeddings.copy()}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    return Regions(**arrays)


def put(index, value):
    def change(array):
        array[index] = value
        return array
    return change


@pytest.mark.parametrize("regions, message", [
    (bad(boxes=put((1, 2), np.nan)), "image 10: box 1: .* is not finite"),
    (bad(boxes=put((2, 3), np.inf)), "image 10: box 2: .* is not finite"),
    (bad(boxes=put(2, 0)), r"image 10: box 2: \[0.0, 0.0, 0.0, 0.0\] has no area"),
    (bad(boxes=lambda b: b[:, [2, 1, 0, 3]]), "image 10: box 0: .* has no area"),
    (bad(boxes=lambda b: b[:, [0, 3, 2, 1]]), "image 10: box 0: .* has no area"),
    (bad(boxes=lambda b: b[:2]), r"boxes \(2, 4\) and scores \(3,\)"),
    (bad(boxes=lambda b: b[:, :3]), r"boxes \(3, 3\)"),
    (bad(scores=put(1, np.nan)), "image 10: score 1: nan is not finite"),
    (bad(embeddings=lambda e: None), r"embeddings None, expected \(3, 8\)"),
    (bad(embeddings=lambda e: e[:, :4]), r"embeddings \(3, 4\), expected \(3, 8\): the store's width is 8"),
    (bad(embeddings=lambda e: e * 1.02), "image 10: embedding 0: 1.0.* not a unit row"),
    (bad(embeddings=put(2, 0)), "image 10: embedding 2: 0.0 .* not a unit row"),
    (bad(embeddings=put((1, 0), np.nan)), "image 10: embedding 1: nan"),
])
def test_bad_regions_are_refused_by_image_and_row(tmp_path, regions, message):
    writer = RegionStore.create(tmp_path / "store", "regions", [10], dim=8)
    with pytest.raises(UserError, match=message) as caught:
        writer.write(0, {10: regions})
    assert str(tmp_path / "store") in str(caught.value)
    assert writer.missing() == [0]


def test_embeddings_have_no_place_in_a_proposal_store(tmp_path):
    writer = RegionStore.create(tmp_path / "store", "proposals", [10])
    with pytest.raises(UserError, match="takes no embeddings"):
        writer.write(0, {10: make_regions(10, 8)})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 32, 512, 1024]))
def test_rounding_to_float16_never_fails_the_unit_check(seed, dim):
    raw = np.random.default_rng(seed).standard_cauchy((20, dim)).astype(np.float32)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    Regions(np.tile(np.float32([0, 0, 1, 1]), (20, 1)), np.ones(20, np.float32), unit).check(1, dim)


def test_a_shard_takes_exactly_its_images(tmp_path):
    writer = RegionStore.create(tmp_path / "store", "proposals", range(6), images_per_shard=3)
    assert [writer.image_ids(s) for s in range(writer.total_shards)] == [[0, 1, 2], [3, 4, 5]]
    for ids in ([0, 1], [0, 1, 2, 3], [3, 4, 5]):
        with pytest.raises(ValueError, match="image ids differ"):
            writer.write(0, {i: make_regions(i, None) for i in ids})
    with pytest.raises(IndexError):
        writer.image_ids(2)


def test_bad_plans_are_refused(tmp_path):
    with pytest.raises(UserError, match="image id 7 occurs twice"):
        RegionStore.create(tmp_path / "a", "proposals", [7, 8, 7])
    with pytest.raises(UserError, match="no images"):
        RegionStore.create(tmp_path / "a", "proposals", [])
    for kwargs in ({"kind": "regions"}, {"kind": "proposals", "dim": 3}, {"kind": "other"},
                   {"kind": "proposals", "images_per_shard": 0}):
        with pytest.raises(ValueError):
            RegionStore.create(tmp_path / "a", image_ids=[1], **kwargs)
    assert not (tmp_path / "a").exists()


def test_an_unfinished_store_is_not_read(tmp_path):
    writer = write_store(tmp_path / "store", range(10), shards=[0, 2])
    assert writer.missing() == [1]
    with pytest.raises(UserError, match="the store is unfinished; run the stage"):
        RegionStore(tmp_path / "store")
    with pytest.raises(UserError, match=r"1 of 3 shards are missing, e\.g\. shard-00001-of-00003\.h5"):
        writer.finish(STAGE, CONFIG, INPUTS)
    with pytest.raises(UserError, match="does not exist; run the stage"):
        RegionStore(tmp_path / "none")
    assert current_or_remove(tmp_path / "store", STAGE, CONFIG, INPUTS) is False
    write_store(tmp_path / "store", range(10))
    assert len(RegionStore(tmp_path / "store")) == 10


@pytest.mark.parametrize("changed, message", [
    ({"images_per_shard": 5}, r"another images per shard \(4, now 5\); pass --overwrite"),
    ({"dim": 9}, r"another embedding width \(8, now 9\)"),
    ({"kind": "proposals", "dim": None}, "another kind"),
    ({"image_ids": range(10, 19)}, "another number of images"),
    ({"image_ids": range(11, 21)}, "another image ids"),
    ({"config": {"top_k": 4}}, "another configuration or inputs"),
])
def test_two_configurations_never_mix(store, changed, message):
    same = {"kind": "regions", "image_ids": range(10, 20), "images_per_shard": 4, "dim": 8, "config": CONFIG}
    assert RegionStore.create(store, **same).missing() == []
    before = files(store)
    with pytest.raises(UserError, match=message):
        RegionStore.create(store, **{**same, **changed})
    with pytest.raises(UserError, match="the store exists; pass --overwrite"):
        RegionStore.create(store, **same, resume=False)
    assert files(store) == before
    writer = RegionStore.create(store, **{**same, **changed}, overwrite=True)
    assert writer.missing() == list(range(writer.total_shards))
    with pytest.raises(UserError, match="unfinished"):
        RegionStore(store)


def test_shards_of_another_plan_count_as_missing(tmp_path, store):
    write_store(tmp_path / "other", range(10, 20), make=lambda i, d: make_regions(i + 1, d))
    writer = RegionStore.create(tmp_path / "third", "regions", range(10, 20), 4, 8, config={"top_k": 9})
    os.link(store / "shard-00000-of-00003.h5", tmp_path / "third" / "shard-00000-of-00003.h5")
    assert writer.missing() == [0, 1, 2]

    name = "shard-00000-of-00003.h5"  # same plan, other content: only the manifest can tell
    (store / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(UserError, match=r"shard-00000-of-00003\.h5.* (bytes instead of|not the shard)"):
        RegionStore(store)[10]


def test_a_users_folder_is_not_made_a_store(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="exists and is not a store"):
            RegionStore.create(tmp_path, "proposals", [1], overwrite=overwrite)
    assert os.listdir(tmp_path) == ["photo.jpg"]


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_cut_shard_is_named_and_only_it_is_rebuilt(fraction):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        write_store(path, range(10))
        before, manifest = files(path), Manifest.read(path)
        shard = path / "shard-00001-of-00003.h5"
        shard.write_bytes(before[shard.name][:int(fraction * len(before[shard.name]))])
        with pytest.raises(UserError, match=r"shard-00001-of-00003\.h5 has \d+ bytes.*ovd embed-regions"):
            RegionStore(path)
        with pytest.raises(UserError, match=r"shard-00001-of-00003\.h5"):
            require(path, kind="regions")
        assert current_or_remove(path, STAGE, CONFIG, INPUTS) is False
        writer = RegionStore.create(path, "regions", range(10), 4, 8, config=CONFIG)
        assert writer.missing() == [1]
        write_store(path, range(10))
        assert files(path) == before
        assert Manifest.read(path).content == manifest.content


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 255))
@example(161, 32)  # HDF5's answer is a TypeError
def test_a_flipped_byte_never_gives_other_regions_unnoticed(position, flip):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        write_store(path, range(4), make=lambda i, d: make_regions(i, d, 5))
        shard = path / "shard-00000-of-00001.h5"
        data = bytearray(shard.read_bytes())
        data[position % len(data)] ^= flip
        shard.write_bytes(data)
        try:
            RegionStore(path).verify()
        except UserError as error:
            assert "shard-00000-of-00001.h5" in str(error)
        else:  # a byte that HDF5 leaves unused
            for image_id in range(4):
                assert_same(RegionStore(path)[image_id], make_regions(image_id, 8, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 255))
def test_of_a_shard_with_a_damaged_index_no_image_gets_anothers_rows(position, flip):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        write_store(path, range(4), dim=64, make=lambda i, d: make_regions(i, d, 50))
        shard = path / "shard-00000-of-00001.h5"
        data = bytearray(shard.read_bytes())
        data[position % 2048] ^= flip  # the description of the datasets and of their places
        shard.write_bytes(data)
        store = RegionStore(path)
        try:
            found = {image_id: store[image_id] for image_id in range(4)}
        except UserError as error:
            assert "shard-00000-of-00001.h5" in str(error)
        else:
            for image_id, regions in found.items():
                assert_same(regions, make_regions(image_id, 64, 50))


def test_a_lost_shard_is_found_when_the_store_is_opened(store):
    (store / "shard-00002-of-00003.h5").unlink()
    with pytest.raises(UserError, match=r"shard-00002-of-00003\.h5 is missing; run the stage again: ovd embed-regions"):
        RegionStore(store)


@pytest.mark.parametrize("name, data", [("plan.json", b"{}"), ("plan.json", b"{"), ("manifest.json", b"")])
def test_damaged_side_files_are_named(store, name, data):
    (store / name).write_bytes(data)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        RegionStore(store)


@pytest.mark.parametrize("place", [-1, 10])  # an id; the first brace of numpy's header
def test_damaged_image_ids_are_named(store, place):
    ids = bytearray((store / "image_ids.npy").read_bytes())
    ids[place] ^= 1
    (store / "image_ids.npy").write_bytes(ids)
    with pytest.raises(UserError, match=r"image_ids\.npy: is damaged"):
        RegionStore(store)


def test_a_manifest_counts_and_carries_marks(tmp_path):
    writer = write_store(tmp_path / "store", range(5), shards=[0, 1])
    writer.finish(STAGE, CONFIG, INPUTS, counts={"crops": 7}, flags={"untrained": True}, wall_seconds=1.5, skipped=[3])
    manifest = require(tmp_path / "store", kind="regions", proposals="sha256:1")
    assert manifest.counts == {"images": 5, "shards": 2, "crops": 7,
                               "regions": sum(len(make_regions(i, 8)) for i in range(5))}
    assert manifest.flags == {"untrained": True} and manifest.skipped == [3] and manifest.wall_seconds == 1.5
    assert manifest.content == fingerprint(tmp_path / "store")
    assert current_or_remove(tmp_path / "store", STAGE, CONFIG, INPUTS) is True


class Sums:
    """A map-style dataset: image id and sum of its embeddings."""

    def __init__(self, store):
        self.store = store

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image_id = int(self.store.image_ids[index % len(self.store)])
        return image_id, float(self.store[image_id].embeddings.astype(np.float32).sum())


@pytest.mark.parametrize(("start", "rows"), [("fork", "float16"), ("fork", "int8"), ("spawn", "int8")])
def test_dataloader_workers_read_a_store_that_was_already_open(tmp_path, start, rows):
    from torch.utils.data import DataLoader

    write_store(tmp_path / "store", range(10, 20), rows=rows)
    opened = RegionStore(tmp_path / "store", mapped_shards=2)
    expected = {i: float(opened[i].embeddings.astype(np.float32).sum()) for i in opened.image_ids.tolist()}
    loader = DataLoader(Sums(opened), num_workers=2, batch_size=4, shuffle=True, multiprocessing_context=start)
    read = [(int(i), float(s)) for ids, sums in loader for i, s in zip(ids, sums)]
    assert len(read) == 40 and all(total == expected[image_id] for image_id, total in read)


def test_several_threads_read_one_store(store):
    opened = RegionStore(store, mapped_shards=1)
    expected = {image_id: opened[image_id] for image_id in opened.image_ids.tolist()}

    def read(seed):
        for image_id in np.random.default_rng(seed).choice(opened.image_ids, 500).tolist():
            assert_same(opened.view(image_id), expected[image_id])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_a_shard_that_another_thread_unmaps_in_between_is_read(store):
    opened = RegionStore(store, mapped_shards=1)

    class Interrupted(OrderedDict):
        """Where another thread reads image 19, of another shard, just before a shard is moved."""

        def move_to_end(self, key):
            opened._mapped = OrderedDict(self)
            opened.view(19)
            opened._mapped.move_to_end(key)

    opened._mapped = Interrupted()
    assert_same(opened.view(10), make_regions(10, 8))


def test_a_pickled_store_takes_no_mapped_data_along(store):
    opened = RegionStore(store)
    fresh = len(pickle.dumps(opened))
    _ = [opened[i] for i in opened.image_ids]
    assert len(pickle.dumps(opened)) == fresh
    assert_same(pickle.loads(pickle.dumps(opened))[10], make_regions(10, 8))


WRITE = """if True:
    import sys, time
    sys.path.insert(0, sys.argv[1])
    from test_shards import CONFIG, INPUTS, STAGE, make_regions
    from ovd.stores.shards import RegionStore
    writer = RegionStore.create(sys.argv[2], "regions", range(60), 2, 64, config=CONFIG)
    print("begun", flush=True)
    for shard in writer.missing():
        writer.write(shard, {i: make_regions(i, 64, 200) for i in writer.image_ids(shard)})
    writer.finish(STAGE, CONFIG, INPUTS)
"""


def test_a_writer_that_is_killed_at_any_time_finishes_to_the_same_bytes(tmp_path):
    def start(path):
        return subprocess.Popen([sys.executable, "-c", WRITE, Path(__file__).parent, path], stdout=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    whole.stdout.readline()
    begun = time.perf_counter()
    assert whole.wait() == 0
    duration = time.perf_counter() - begun
    rng = np.random.default_rng(0)
    for _ in range(4):
        writer = start(tmp_path / "killed")
        writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.5 * duration))
        writer.kill()
        writer.wait()
        visible = (tmp_path / "killed").glob("shard*")
        assert all(f.read_bytes() == (tmp_path / "whole" / f.name).read_bytes() for f in visible), "only whole shards"
    assert start(tmp_path / "killed").wait() == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole"), "same bytes and no leftovers"
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


def test_several_processes_write_one_store(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITE.replace("writer.missing()", order), Path(__file__).parent,
                                 tmp_path / "many"], stdout=subprocess.DEVNULL)
               for order in ("range(30)", "reversed(range(30))")]
    assert [w.wait() for w in writers] == [0, 0]
    subprocess.run([sys.executable, "-c", WRITE, Path(__file__).parent, tmp_path / "one"], check=True,
                   stdout=subprocess.DEVNULL)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert RegionStore(tmp_path / "many").verify() == 60 * 200


def begin_stores(folder, gate, errors):
    for index in range(100):
        gate.wait()
        try:
            RegionStore.create(folder / str(index), "proposals", range(9), 2)
        except UserError as error:
            errors.put(str(error))


def test_several_processes_may_begin_a_store_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    gate, errors = context.Barrier(3), context.Queue()
    processes = [context.Process(target=begin_stores, args=(tmp_path, gate, errors)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert errors.empty(), errors.get()
    assert len(os.listdir(tmp_path)) == 100


def test_a_write_limit_leaves_no_shard(tmp_path):
    code = """if True:
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from test_shards import make_regions
        from ovd.errors import UserError
        from ovd.stores.shards import RegionStore
        writer = RegionStore.create(sys.argv[2], "regions", range(4), 4, 64)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            writer.write(0, {i: make_regions(i, 64, 200) for i in range(4)})
        except UserError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code, Path(__file__).parent, tmp_path / "store"], capture_output=True,
                          text=True)
    assert "shard-00000-of-00001.h5: cannot write" in done.stdout and not done.stderr
    assert sorted(os.listdir(tmp_path / "store")) == ["image_ids.npy", "plan.json"]


def test_a_store_that_cannot_be_finished_or_begun_for_want_of_space_says_so(tmp_path):
    code = """if True:
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from test_shards import CONFIG, INPUTS, STAGE, make_regions
        from ovd.errors import UserError
        from ovd.stores.shards import RegionStore
        writer = RegionStore.create(sys.argv[2], "proposals", range(4))
        writer.write(0, {i: make_regions(i, None) for i in range(4)})
        for size, step in ((100, lambda: writer.finish(STAGE, CONFIG, INPUTS)),
                           (10, lambda: RegionStore.create(sys.argv[2] + "2", "proposals", range(4))),
                           (400, lambda: RegionStore.create(sys.argv[2] + "3", "proposals", range(9999)))):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                step()
            except UserError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code, Path(__file__).parent, tmp_path / "store"], capture_output=True,
                          text=True)
    assert not done.stderr
    for name, line in zip(("manifest.json", "plan.json", "image_ids.npy"), done.stdout.splitlines(), strict=True):
        assert f"{name}: cannot write, the file size limit is reached; nothing was left behind" in line
    assert sorted(os.listdir(tmp_path / "store")) == ["image_ids.npy", "plan.json", "shard-00000-of-00001.h5"]
    assert os.listdir(tmp_path / "store2") == [] and os.listdir(tmp_path / "store3") == ["plan.json"]
