"""The audit as a command: its files, that they are made once and the same each time, refusals."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from annotated_world import (
    draw_images,
    embed,
    make_records,
    write_annotations,
    write_config,
    write_head,
    write_store,
)

from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.stores.region_index import build_index, index_file
from ovd.stores.shards import RegionStore
from pipelines.audit import audit_annotations

WRONG = (4, 31, 56)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset with three wrong labels, one box drawn twice, and the store of its boxes."""
    root = tmp_path_factory.mktemp("audited")
    contents = make_records(20)
    draw_images(root, contents)
    rows = embed(contents)
    for a in contents["annotations"]:
        if a["id"] in WRONG:
            a["category_id"] = 1 + a["category_id"] % 4
    contents["annotations"].append(contents["annotations"][0] | {"id": 500})
    rows[500] = rows[1]
    write_annotations(root, contents)
    write_store(root / "regions/annotated_train", contents, rows)
    write_head(root / "head.safetensors")
    return root


@pytest.fixture(scope="module")
def config(world):
    return write_config(world / "config.py", world)


def changed(world, tmp_path, change):
    """A copy of the world whose annotations were changed."""
    root = tmp_path / "changed"
    shutil.copytree(world, root)
    contents = json.loads((root / "annotations/train.json").read_text())
    change(contents)
    write_annotations(root, contents)
    return root


def test_the_command_writes_a_report_and_a_page(world, config, root, tmp_path):
    command = [sys.executable, "-X", "importtime", root / "tools/audit_labels.py", config, "--k", "8",
               "--out", tmp_path / "audit"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "mmdet" not in done.stderr  # which takes seconds to load
    assert "labels counted as wrong: 3" in done.stdout and "boxes drawn twice: 1" in done.stdout
    report = json.loads((tmp_path / "audit/report.json").read_text())
    assert {entry["annotation_id"] for entry in report["label_errors"][:3]} == set(WRONG)
    assert all(entry["counted_as_wrong"] and len(entry["similar_annotations"]) for entry in report["label_errors"][:3])
    assert report["double_boxes"][0]["annotation_ids"] == [1, 500] and report["unannotated"] is None
    page = (tmp_path / "audit/report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    for entry in report["label_errors"]:
        assert f"annotation {entry['annotation_id']}" in page
    manifest = Manifest.read(tmp_path / "audit/report.json")
    assert set(manifest.inputs) == {"annotations", "regions", "class_head"} and manifest.counts["objects"] == 81


def test_the_same_inputs_give_the_same_bytes_and_an_index_the_same_findings(world, config, tmp_path):
    first = audit_annotations(config, k=8, out=tmp_path / "a")
    assert audit_annotations(config, k=8, out=tmp_path / "b").read_bytes() == first.read_bytes()
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()
    store = RegionStore(world / "regions/annotated_train")
    path = tmp_path / index_file(store.path).name
    build_index(store, path)
    indexed = json.loads(audit_annotations(config, k=8, index=path, out=tmp_path / "c").read_text())
    plain = json.loads(first.read_text())
    assert [e["annotation_id"] for e in indexed["label_errors"]] == [e["annotation_id"] for e in plain["label_errors"]]


def test_a_current_report_is_left_and_a_stale_one_is_named(world, config, tmp_path, capsys):
    audit_annotations(config, k=8, out=tmp_path)
    audit_annotations(config, k=8, out=tmp_path)
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another configuration: k was 8, now 7; pass --overwrite"):
        audit_annotations(config, k=7, out=tmp_path)
    (tmp_path / "report.html").unlink()
    audit_annotations(config, k=8, out=tmp_path)
    assert (tmp_path / "report.html").exists()


def test_corrected_labels_need_no_new_store(world, config, tmp_path):
    def correct(contents):
        for a in contents["annotations"]:
            if a["id"] in WRONG:
                a["category_id"] = 1 + (a["category_id"] - 2) % 4

    report = json.loads(audit_annotations(config, k=8, data_root=changed(world, tmp_path, correct),
                                          out=tmp_path / "out").read_text())
    assert report["counts"]["labels_counted_as_wrong"] == 0


def test_a_store_of_other_boxes_or_without_objects_is_refused(world, config, tmp_path):
    def move(contents):
        contents["annotations"][3]["bbox"][0] += 2

    with pytest.raises(UserError, match=r"are not those that .*train.json has"):
        audit_annotations(config, data_root=changed(world, tmp_path, move), out=tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere: no region store of the annotated boxes; make it with ovd proposals"):
        audit_annotations(config, store=tmp_path / "nowhere", out=tmp_path / "out")
    contents = make_records(3)
    contents["annotations"] = []
    write_store(tmp_path / "empty", contents, {})
    with pytest.raises(UserError, match="holds no regions"):
        audit_annotations(config, store=tmp_path / "empty", out=tmp_path / "out")


def test_stores_and_heads_of_another_clip_are_refused(world, config, tmp_path):
    write_head(tmp_path / "other.safetensors", clip="sha256:other")
    with pytest.raises(UserError, match=r"other.safetensors and .*annotated_train were made with different CLIPs"):
        audit_annotations(config, class_head=tmp_path / "other.safetensors", out=tmp_path / "out")
    contents = make_records(3)
    write_store(tmp_path / "proposals", contents, embed(contents), clip="sha256:other")
    with pytest.raises(UserError, match=r"proposals and .*annotated_train were made with different CLIPs or crop"):
        audit_annotations(config, proposals=tmp_path / "proposals", out=tmp_path / "out")
    audit_annotations(config, class_head=tmp_path / "other.safetensors", no_text=True, k=8, out=tmp_path / "out")


@pytest.mark.parametrize(("change", "words"), [
    ({"k": 0}, "--k 0: needs 1 or more"), ({"text_weight": 1.5}, "--text-weight 1.5: needs a number from 0 to 1"),
    ({"index": "nothing.faiss"}, "nothing.faiss: "),
])
def test_wrong_options_are_named(config, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        audit_annotations(config, out=tmp_path / "out", **change)


def test_a_proposal_on_an_object_without_annotation_is_reported(world, config, tmp_path):
    forgotten = make_records(20)["annotations"][10]

    def forget(contents):
        contents["annotations"] = [a for a in contents["annotations"] if a["id"] != forgotten["id"]]

    root = changed(world, tmp_path, forget)
    contents = make_records(20)
    rows = embed(contents)
    write_store(root / "proposals", contents, rows)
    left = json.loads((root / "annotations/train.json").read_text())
    rows[500] = rows[1]
    shutil.rmtree(root / "regions")
    write_store(root / "regions/annotated_train", left, rows)
    report = json.loads(audit_annotations(config, k=8, data_root=root, proposals=root / "proposals",
                                          out=tmp_path / "out").read_text())
    assert [entry["image_id"] for entry in report["unannotated"]] == [forgotten["image_id"]]
    np.testing.assert_allclose(report["unannotated"][0]["box"], forgotten["bbox"])
    assert "Objects perhaps without annotation" in (tmp_path / "out/report.html").read_text()
