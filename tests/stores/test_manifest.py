"""A consumer refuses what does not fit and says why; a stage is skipped only when its artefact is what it would be."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.stores.manifest import (
    Manifest,
    canonical_json,
    current_or_remove,
    difference,
    fingerprint,
    fingerprint_json,
    publish,
    remove,
    require,
    up_to_date,
)

CONFIG = {"scales": [1.0, 1.5], "crop": {"kind": "clip"}}
INPUTS = {"annotations": "sha256:" + "a" * 64, "clip": "sha256:" + "b" * 64}


@pytest.fixture
def artefact(tmp_path):
    path = tmp_path / "head.safetensors"
    with publish(path, Manifest("class_head", "class-embeddings", CONFIG, INPUTS)) as (temporary, manifest):
        temporary.write_bytes(b"weights")
        manifest.counts["classes"] = np.int64(3)
        manifest.flags["untrained"] = True
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "world"
    (path / "train").mkdir(parents=True)
    (path / "train" / "0.png").write_bytes(b"0")
    (path / "split.json").write_bytes(b"{}")
    Manifest("shapes", "shapes", CONFIG).write(path)
    return path


json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text(max_size=5)
                           | st.floats(allow_nan=False, allow_infinity=False),
                           lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner,
                                                                                       max_size=4), max_leaves=10)


@given(json_values)
def test_fingerprint_of_a_configuration_survives_json_and_key_order(value):
    again = json.loads(json.dumps(value, indent=3))
    assert fingerprint_json(again) == fingerprint_json(value)
    if isinstance(value, dict):
        assert fingerprint_json(dict(reversed(value.items()))) == fingerprint_json(value)


def test_tuples_numpy_and_paths_count_as_their_plain_values(tmp_path):
    assert canonical_json({"b": (1, np.float32(0.5)), "a": tmp_path}) == f'{{"a":"{tmp_path}","b":[1,0.5]}}'
    with pytest.raises(ValueError):
        fingerprint_json({"x": float("nan")})
    with pytest.raises(TypeError, match="cannot be part of a configuration"):
        fingerprint_json({"x": object()})


def test_fingerprint_is_the_sha256_of_the_bytes_and_follows_a_rewrite(tmp_path):
    file = tmp_path / "a"
    for content in (b"one", b"two", b"x" * 3_000_000):  # the first two have the same size
        file.write_bytes(content)
        expected = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
        assert fingerprint(file) == "sha256:" + expected


def test_fingerprint_reads_an_unchanged_file_once(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    first = fingerprint(file)
    monkeypatch.setattr("hashlib.sha256", lambda: pytest.fail("read again"))
    assert fingerprint(file) == first


def test_fingerprint_of_what_is_missing_or_unfinished_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        fingerprint(tmp_path / "no")
    (tmp_path / "store").mkdir()
    with pytest.raises(UserError, match=r"store: has no manifest.*again"):
        fingerprint(tmp_path / "store")


def test_manifest_round_trip(artefact):
    manifest = Manifest.read(artefact)
    assert (manifest.kind, manifest.stage, manifest.config, manifest.inputs) == (
        "class_head", "class-embeddings", CONFIG, INPUTS)
    assert manifest.counts == {"classes": 3} and manifest.flags == {"untrained": True}
    assert manifest.content == fingerprint(artefact) and manifest.schema == 1 and manifest.code_version
    assert Manifest.path(artefact).name == "head.safetensors.manifest.json"


def test_a_folder_has_one_fingerprint_that_follows_its_files(folder):
    before = fingerprint(folder)
    assert Manifest.read(folder).files.keys() == {"split.json", "train/0.png"}
    (folder / "split.json").write_bytes(b"[]")
    Manifest("shapes", "shapes", CONFIG).write(folder)
    assert fingerprint(folder) != before
    (folder / "train" / "0.png").unlink()
    with pytest.raises(UserError, match=r"world: train/0\.png is missing; rebuild it: ovd shapes"):
        fingerprint(folder)


@pytest.mark.parametrize("text, message", [
    ("{", "not a manifest"), ('{"kind": "x"}', "not a manifest"), ('{"kind": 3, "stage": "x"}', "not a manifest"),
    ('{"kind": "x", "stage": "s", "schema": 99}', "schema version 99, this version of ovd reads 1"),
])
def test_a_broken_manifest_is_refused(artefact, text, message):
    Manifest.path(artefact).write_text(text)
    with pytest.raises(UserError, match=message):
        Manifest.read(artefact)


def test_a_manifest_that_is_no_text_is_refused(artefact):
    path = Manifest.path(artefact)
    path.write_bytes(path.read_bytes().replace(b'"class_head"', b'"class\xe5head"'))
    with pytest.raises(UserError, match="not a manifest"):
        Manifest.read(artefact)


def test_up_to_date_only_if_everything_is_the_same(artefact):
    assert up_to_date(artefact, "class-embeddings", CONFIG, INPUTS)
    assert up_to_date(artefact, "class-embeddings", {**CONFIG, "scales": (1.0, 1.5)}, INPUTS), "a tuple is a list"
    assert "stage" in difference(artefact, "embed-regions", CONFIG, INPUTS)
    assert difference(artefact, "class-embeddings", {**CONFIG, "crop": {"kind": "warp"}}, INPUTS) == \
        'was made with another configuration: crop.kind was "clip", now "warp"'
    assert "extra is new" in difference(artefact, "class-embeddings", {**CONFIG, "extra": 1}, INPUTS)
    assert "crop is gone" in difference(artefact, "class-embeddings", {"scales": [1.0, 1.5]}, INPUTS)
    other = {**INPUTS, "clip": "sha256:" + "c" * 64}
    assert difference(artefact, "class-embeddings", CONFIG, other) == \
        "was made from another 'clip' (sha256:bbbbbbbb, needed is sha256:cccccccc)"
    assert "'clip'" in difference(artefact, "class-embeddings", CONFIG, {"annotations": INPUTS["annotations"]})


def test_a_changed_file_is_not_up_to_date(artefact):
    artefact.write_bytes(b"WEIGHTS")  # same size
    assert difference(artefact, "class-embeddings", CONFIG, INPUTS) == "was changed after it was made"
    artefact.write_bytes(b"w")
    assert "1 bytes instead of 7" in difference(artefact, "class-embeddings", CONFIG, INPUTS)
    artefact.unlink()
    assert not up_to_date(artefact, "class-embeddings", CONFIG, INPUTS)


def test_an_artefact_may_be_renamed_with_its_manifest(artefact):
    moved = artefact.with_name("other.safetensors")
    Manifest.path(artefact).rename(Manifest.path(moved))
    artefact.rename(moved)
    assert up_to_date(moved, "class-embeddings", CONFIG, INPUTS)


def test_require_says_which_input_differs_and_the_remedy(artefact):
    assert require(artefact, kind="class_head", clip=INPUTS["clip"]).flags == {"untrained": True}
    with pytest.raises(UserError, match=r"another 'clip' \(sha256:bbbbbbbb, needed is sha256:12345678\); "
                                        r"rebuild it: ovd class-embeddings \.\.\. --overwrite"):
        require(artefact, clip="sha256:1234567890")
    with pytest.raises(UserError, match=r"does not record an input 'proposals' \(has: annotations, clip\)"):
        require(artefact, proposals="sha256:1")
    with pytest.raises(UserError, match="kind 'class_head', needed is 'regions'"):
        require(artefact, kind="regions")
    with pytest.raises(UserError, match="does not exist"):
        require(artefact.with_name("none"))


def test_stage_protocol_skip_refuse_overwrite(artefact):
    def check(config=CONFIG, **kwargs):
        return current_or_remove(artefact, "class-embeddings", config, INPUTS, **kwargs)

    assert check() is True
    with pytest.raises(UserError, match=r"exists but was made with another configuration.*--overwrite"):
        check({})
    assert artefact.exists()
    assert check({}, overwrite=True) is False
    assert not artefact.exists() and not Manifest.path(artefact).exists()
    assert check({}) is False


def test_a_users_file_without_manifest_is_not_replaced_silently(tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text("precious")
    with pytest.raises(UserError, match=r"mine\.json: exists but has no manifest.*--overwrite"):
        current_or_remove(mine, "build-zsl", {}, {})
    assert mine.read_text() == "precious"


def test_overwrite_never_empties_a_folder_that_is_no_artefact(tmp_path, folder):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="no manifest"):
        current_or_remove(photos, "shapes", {}, {}, overwrite=True)
    assert (photos / "a.jpg").exists()

    (folder / "train" / "notes.txt").write_text("precious")
    remove(folder)
    assert [p.name for p in folder.rglob("*")] == ["train", "notes.txt"]


def test_an_empty_folder_and_an_unfinished_store_are_gone_on_with(tmp_path):
    assert current_or_remove(tmp_path, "proposals", {}, {}) is False
    (tmp_path / "plan.json").write_text("{}")
    assert current_or_remove(tmp_path, "proposals", {}, {}) is False


def test_a_kill_between_manifest_and_file_counts_as_absent(tmp_path):
    code = """if True:
        import os, sys
        from ovd.stores import atomic
        from ovd.stores.manifest import Manifest, publish
        replace = os.replace
        atomic.os.replace = lambda a, b: replace(a, b) if str(b).endswith("manifest.json") else os.kill(os.getpid(), 9)
        with publish(sys.argv[1], Manifest("x", "s")) as (temporary, manifest):
            temporary.write_text("new")
    """
    path = tmp_path / "a.txt"
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    assert Manifest.path(path).exists() and not path.exists()
    assert current_or_remove(path, "s", {}, {}) is False
    with publish(path, Manifest("x", "s")) as (temporary, _):
        temporary.write_text("new")
    assert current_or_remove(path, "s", {}, {}) is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "a.txt.manifest.json"], "leftovers are swept"


def test_nothing_is_published_when_the_stage_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), publish(tmp_path / "a", Manifest("x", "s")):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_two_parts_may_begin_to_mend_a_store_at_once(tmp_path, monkeypatch):
    def finished():
        (tmp_path / "plan.json").write_text("{}")
        (tmp_path / "shard").write_text("rows")
        Manifest("regions", "s").write(tmp_path)
        (tmp_path / "shard").unlink()

    finished()
    assert current_or_remove(tmp_path, "s", {}, {}) is False
    assert not Manifest.path(tmp_path).exists()
    read = Manifest.read
    for reads in (0, 1, 2):  # of one part, before the other one removes the manifest
        finished()
        found = []

        def while_another_part_begins(path, reads=reads, found=found):
            if len(found) == reads:
                Manifest.path(path).unlink(missing_ok=True)
            found.append(read(path))
            if len(found) == reads == 2:
                Manifest.path(path).unlink()
            return found[-1]

        with monkeypatch.context() as patch:
            patch.setattr(Manifest, "read", while_another_part_begins)
            assert current_or_remove(tmp_path, "s", {}, {}) is False
