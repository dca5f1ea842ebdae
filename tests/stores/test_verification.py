"""Verification of stores: all damage is found and named, nothing else; what is deleted is what a stage makes again."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shards import CONFIG, INPUTS, STAGE, files, make_regions, write_store

from ovd.errors import UserError
from ovd.stores.manifest import current_or_remove
from ovd.stores.shards import RegionStore
from ovd.stores.summary import summarise
from ovd.stores.verification import delete_damaged, size_of, verify_store

NAMES = [f"shard-{index:05d}-of-00005.h5" for index in range(5)]


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "lost":
        file.unlink()
        return
    if how == "cut":
        del data[len(data) // 2:]
    elif how == "emptied":
        data.clear()
    else:
        data[-40] ^= 4  # in the rows of the last dataset
    file.write_bytes(data)


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["lost", "cut", "emptied", "flipped"]), max_size=5),
       st.sampled_from([("regions", "float16"), ("regions", "int8"), ("proposals", None)]), st.booleans())
def test_all_damage_is_found_and_only_it_is_made_again(broken, kind, finished):
    def make(image_id, dim):
        return make_regions(image_id, dim, 12)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        options = {"dim": 8 if kind[1] else None, "make": make, "rows": kind[1] or "float16"}
        write_store(path, range(19), **options, shards=None if finished else range(5))
        before = files(path)
        for name, how in broken.items():
            damage(path / name, how)
        read = []
        verdict = verify_store(path, read.append)
        lost = sorted(name for name, how in broken.items() if how == "lost")
        assert verdict.missing == lost and verdict.finished is finished
        assert sorted(verdict.damaged) == sorted(broken.keys() - set(lost))
        assert verdict.is_broken is bool(verdict.damaged or (finished and lost))
        images = sum(3 if name == NAMES[-1] else 4 for name in set(NAMES) - broken.keys())
        assert verdict.regions == 12 * images
        assert 0 <= sum(read) <= size_of(path)
        delete_damaged(verdict)
        assert files(path) == {name: data for name, data in before.items() if name not in broken}
        assert current_or_remove(path, STAGE, CONFIG, INPUTS) is False
        write_store(path, range(19), **options)
        assert files(path) == before
        assert not verify_store(path).is_broken


def test_a_whole_shard_that_is_not_the_manifests_is_found(tmp_path):
    write_store(tmp_path / "a", range(10), make=lambda i, d: make_regions(i, d, 3))
    write_store(tmp_path / "b", range(10), make=lambda i, d: make_regions(i + 1, d, 3))
    name = "shard-00001-of-00003.h5"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    assert verify_store(tmp_path / "a").damaged == {name: "is not the shard that the manifest names"}


def test_a_shard_of_another_configuration_is_found_in_an_unfinished_store(tmp_path):
    write_store(tmp_path / "a", range(10))
    writer = RegionStore.create(tmp_path / "b", "regions", range(10), 4, 8, config={"other": 1})
    name = "shard-00000-of-00003.h5"
    os.link(tmp_path / "a" / name, tmp_path / "b" / name)
    assert verify_store(writer.path).damaged == {name: "belongs to a store of another configuration"}


def test_side_files_are_looked_at(tmp_path):
    write_store(tmp_path / "store", range(10))
    ids = tmp_path / "store/image_ids.npy"
    for damaged in (ids.read_bytes()[:-1] + b"x", ids.read_bytes() + b"x"):
        ids.write_bytes(damaged)
        verdict = verify_store(tmp_path / "store")
        assert list(verdict.damaged) == ["image_ids.npy"]
        delete_damaged(verdict)
        write_store(tmp_path / "store", range(10))
        assert not verify_store(tmp_path / "store").is_broken

    plan = tmp_path / "store/plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"images_per_shard":4', b'"images_per_shard":3'))
    verdict = verify_store(tmp_path / "store")
    assert "plan.json" in verdict.damaged
    with pytest.raises(UserError, match=r"plan\.json.*delete the folder and run the stage again"):
        delete_damaged(verdict)
    plan.unlink()
    with pytest.raises(UserError, match="is not a store"):
        verify_store(tmp_path / "store")


def test_a_store_that_is_being_written_loses_nothing(tmp_path):
    writer = write_store(tmp_path / "store", range(10), shards=[0])
    damage(tmp_path / "store/shard-00000-of-00003.h5", "cut")
    verdict = verify_store(tmp_path / "store")
    before = files(tmp_path / "store")
    with writer.exclusive(), pytest.raises(UserError, match="another run writes this store"):
        delete_damaged(verdict)
    assert files(tmp_path / "store") == before


def test_a_summary_counts_what_is_there(tmp_path):
    counts = {i: i % 4 for i in range(10)}
    write_store(tmp_path / "store", range(10), make=lambda i, d: make_regions(i, d, counts[i]), shards=[0, 2])
    found = summarise(tmp_path / "store")
    assert (found["finished"], found["images"], found["images_stored"], found["shards_stored"]) == (False, 10, 6, 2)
    write_store(tmp_path / "store", range(10), make=lambda i, d: make_regions(i, d, counts[i]))
    found = summarise(tmp_path / "store")
    sizes = sum(file.stat().st_size for file in (tmp_path / "store").glob("shard-*"))
    regions = sum(counts.values())
    assert (found["kind"], found["width"], found["rows"], found["stage"]) == ("regions", 8, "float16", STAGE)
    assert (found["regions"], found["bytes"]) == (regions, sizes)
    assert found["bytes_per_region"] == round(sizes / regions, 1)
    assert found["regions_per_image"] == {"min": 0, "mean": np.mean(list(counts.values())), "max": 3}
