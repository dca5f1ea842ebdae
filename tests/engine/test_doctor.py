"""The doctor: broken files are findings and never errors; what is missing comes with commands that are to be run."""

import argparse
import importlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from annotated_world import (
    draw_images,
    embed,
    make_records,
    prototypes,
    write_annotations,
    write_config,
    write_head,
    write_store,
)

from ovd.engine.doctor.data import look_at_annotations, look_at_data, look_at_head, look_at_registry, look_at_store
from ovd.engine.doctor.machine import Probe, devices, memory_and_disk, operators
from ovd.engine.doctor.makers import Makers
from ovd.engine.doctor.needs import look_at_config
from ovd.engine.doctor.packages import look_at_packages
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry
from ovd.stores.shards import RegionStore
from pipelines.cli import STAGES

DATASET = """
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file=train_ann, region_store=region_store))
model = dict(class_head=class_head, data_root=data_root)
"""


@pytest.fixture
def world(tmp_path):
    """A dataset with annotations, images, a store of regions, a class head and a config of all of it."""
    root = tmp_path / "tiny"
    contents = make_records(16)
    draw_images(root, contents)
    write_annotations(root, contents)
    write_store(root / "regions" / "proposals", contents, embed(contents))
    write_head(root / "head.safetensors")
    write_config(root / "config.py", root)
    with open(root / "config.py", "a") as file:
        file.write(DATASET)
    return root


def states(findings):
    return {finding.name: finding.state for finding in findings}


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:int(share * len(content))])


def test_what_is_whole_is_found_with_its_fingerprints(world):
    found = look_at_data(world)[str(world)]
    assert set(states(found).values()) == {"ok"}
    by_name = {finding.name: finding for finding in found}
    assert by_name["train.json"].facts["images"] == 16
    assert by_name["train"].facts["images"] == 16
    store = by_name["regions/proposals"]
    assert store.facts["fingerprint"] == RegionStore(world / "regions" / "proposals").manifest.content
    assert store.facts["clip"] == "sha256:tiny" == by_name["head.safetensors"].facts["clip"]
    assert look_at_data(world.parent).keys() == {str(world)}  # a folder of datasets


@pytest.mark.parametrize("what", ["shard", "plan.json", "manifest.json", "image_ids.npy"])
def test_a_truncated_store_is_a_finding(world, what):
    store = world / "regions" / "proposals"
    cut(next(store.glob("shard-00001*")) if what == "shard" else store / what)
    found = look_at_store(store)
    assert found.state == "broken" and "\n" not in found.text and found.remedy
    assert states(look_at_data(world)[str(world)])["regions/proposals"] == "broken"


def test_a_flipped_bit_is_found_when_every_byte_is_read(world):
    store = world / "regions" / "proposals"
    shard = next(store.glob("shard-00001*"))
    place = shard.read_bytes().find(RegionStore(store).view(int(RegionStore(store).image_ids[8])).boxes.tobytes())
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)
    assert look_at_store(store).state == "ok" and look_at_store(store, deep=True).state == "broken"


def test_an_unfinished_store_can_be_gone_on_with(world):
    (world / "regions" / "proposals" / "manifest.json").unlink()
    found = look_at_store(world / "regions" / "proposals")
    assert found.state == "note" and "unfinished" in found.text and "goes on where it was" in found.remedy


def test_broken_annotations_and_heads_are_findings(world):
    cut(world / "annotations" / "train.json")
    cut(world / "head.safetensors")
    found = states(look_at_data(world)[str(world)])
    assert found["train.json"] == found["head.safetensors"] == "broken"
    (world / "annotations" / "train.json").write_bytes(bytes(range(256)))
    (world / "head.safetensors").write_bytes(b"")
    assert look_at_annotations(world / "annotations" / "train.json").state == "broken"
    assert look_at_head(world / "head.safetensors").state == "broken"


def test_json_that_is_no_annotation_file_is_passed_over(world):
    (world / "annotations" / "split.json").write_text('{"base": ["red"]}')
    (world / "notes.json").write_text("[1, 2]")
    assert not {"split.json", "notes.json"} & states(look_at_data(world)[str(world)]).keys()


def test_a_registry_is_found_and_its_damage_too(tmp_path):
    registry = ClassRegistry(tmp_path / "classes")
    registry.add(ClassHead(("red", "blue"), prototypes()[:2, None], stats={"clip": "sha256:tiny"}))
    assert look_at_registry(tmp_path / "classes").text == "registry of 2 classes: red, blue"
    next((tmp_path / "classes").glob("red-*.safetensors")).unlink()
    assert look_at_data(tmp_path / "classes")[str(tmp_path / "classes")][0].state == "broken"


def test_artefacts_of_two_clips_side_by_side_are_noticed(world):
    write_head(world / "head.safetensors", clip="sha256:other")
    assert states(look_at_data(world)[str(world)])["CLIPs"] == "note"


def test_a_config_whose_inputs_fit_has_no_commands(world):
    needs = look_at_config(world / "config.py")
    assert needs.commands == [] and {f.state for f in needs.findings} == {"ok"}
    assert needs.findings[-1].text == "all inputs are there and fit together"


def test_inputs_that_do_not_fit_together_are_broken(world):
    write_head(world / "head.safetensors", clip="sha256:other")
    assert states(look_at_config(world / "config.py").findings)["together"] == "broken"


def test_missing_images_are_counted(world):
    first = sorted((world / "train").glob("*.png"))[0]
    first.unlink()
    found = {f.name: f for f in look_at_config(world / "config.py").findings}["train images"]
    assert found.state == "missing" and "15 of the 16" in found.text and first.name in found.text


def test_what_is_missing_comes_with_what_makes_it(world):
    cut(world / "regions" / "proposals" / "plan.json")
    (world / "head.safetensors").unlink()
    needs = look_at_config(world / "config.py")
    assert states(needs.findings)["region store"] == "broken" and states(needs.findings)["class head"] == "missing"
    assert needs.commands == [f"ovd class-embeddings vild --config {world / 'config.py'}"]


def test_what_another_stage_makes_is_not_missing(world):
    (world / "head.safetensors").unlink()
    needs = look_at_config(world / "config.py", made_elsewhere=[world / "head.safetensors"])
    assert not needs.commands and not any(f.is_bad for f in needs.findings)


def test_a_config_that_cannot_be_loaded_is_a_finding(tmp_path):
    (tmp_path / "bad.py").write_text("raise ValueError('no')")
    needs = look_at_config(tmp_path / "bad.py")
    assert [f.state for f in needs.findings] == ["broken"] and "no" in needs.findings[0].text


class Refusing(argparse.ArgumentParser):
    def error(self, message):
        raise AssertionError(message)


@pytest.mark.parametrize(("config", "stages"), [
    ("vild/vild_r50_fpn_coco_48_17", ["#", "build-zsl", "class-embeddings", "train", "proposals", "embed-regions"]),
    ("oadp/oadp_r50_fpn_2x_lvis_866_337", ["#", "build-zsl", "class-embeddings", "train", "proposals", "embed-regions",
                                          "embed-regions", "embed-regions"]),
    ("detpro/detpro_r50_fpn_20e_coco_65_15", ["#", "build-zsl", "train", "proposals", "proposals", "embed-regions",
                                             "embed-regions", "learn-prompts"]),
    ("tfa/faster_rcnn_r50_fpn_coco_60_20_10shot", ["#", "build-zsl", "shots", "shots", "train", "head-surgery"]),
    ("hyper_roi/hyper_roi_coco_48_17", ["#", "build-zsl", "class-embeddings", "train"])])
def test_commands_for_shipped_configs_are_whole_and_ones_that_are_taken(root, tmp_path, monkeypatch, config, stages):
    monkeypatch.chdir(tmp_path)  # where nothing is
    (tmp_path / "configs").symlink_to(root / "configs")
    commands = look_at_config(f"configs/{config}.py", tmp_path / "data").commands
    assert [line.split()[0 if line.startswith("#") else 1] for line in commands] == stages
    for words in (shlex.split(line)[1:] for line in commands if not line.startswith("#")):
        parser = Refusing()
        importlib.import_module(f"pipelines.{STAGES[words[0]][0]}").add_arguments(parser)
        parser.parse_args(words[1:])
        assert not [word for word in words if word.startswith("data/")], "the data root was given"


def test_the_embedded_benchmark_begins_with_its_rendering(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(root / "configs")
    assert look_at_config("configs/shapes/vild.py").commands == [
        "ovd shapes --data-root data/shapes", "ovd build-zsl configs/shapes/vild.py",
        "ovd class-embeddings vild --config configs/shapes/vild.py", "ovd train configs/shapes/rpn.py",
        "ovd proposals configs/shapes/rpn.py work_dirs/rpn/final.pth", "ovd embed-regions configs/shapes/vild.py"]


def test_a_checkpoint_that_no_config_makes_has_no_command(root):
    from ovd.engine.config import load_config

    config = root / "configs" / "shapes" / "vild.py"
    makers = Makers(load_config(config), config)
    assert makers.of("load_from", Path("elsewhere/model.pth")) == []
    assert makers.of("load_from", Path("work_dirs/vild/final.pth"))[0].startswith("ovd train ")


def test_other_versions_than_the_locks_are_noted(tmp_path):
    (tmp_path / "lock").write_text(f"numpy=={np.__version__}\ntorch==0.1.0\n")
    found = {f.name: f for f in look_at_packages(tmp_path / "lock")}
    assert found["lock"].state == "note" and "torch" in found["lock"].text and "numpy" not in found["lock"].text
    assert "lock" not in {f.name for f in look_at_packages(tmp_path / "absent")}


def test_a_probe_that_dies_is_a_finding():
    probe = Probe()
    probe._process.kill()
    result = probe.result()["machine"]
    assert "status" in result["error"] and devices(result)[0].state == "broken" and operators(result) == []


def test_a_probe_that_dies_on_its_way_keeps_what_it_found(tmp_path, monkeypatch):
    (tmp_path / "ovd" / "engine" / "doctor").mkdir(parents=True)
    for folder in ("ovd", "ovd/engine", "ovd/engine/doctor"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "ovd" / "engine" / "doctor" / "probe.py").write_text(
        "import os\nprint('a library greets')\nprint('{\"machine\": {\"torch\": \"2\"}}', flush=True)\nos._exit(3)\n")
    monkeypatch.setattr("ovd.engine.doctor.machine.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert Probe().result() == {"machine": {"torch": "2"}, "clips": {"error": "status 3: said nothing"}}


MACHINE = {"torch": "2.11.0+cu130", "cuda_build": "13.0", "threads": 8, "driver": "580.1", "operators_from": "x.so",
           "operators": {"cpu": {"nms": ""}, "cuda": {"nms": "", "roi_align": "RuntimeError: no kernel"}},
           "faiss": {"version": "1.9", "gpus": 0, "works": True},
           "devices": [{"name": "H200", "capability": "9.0", "memory": 150e9, "free": 140e9, "built_for": True}]}


def test_devices_and_operators_are_judged():
    found = {f.name: f for f in devices(MACHINE)}
    assert found["cuda:0"].state == "ok"
    assert "capability 9.0" in found["cuda:0"].text and "driver 580.1" in found["cuda:0"].text
    assert found["faiss"].state == "note"  # a GPU that it does not use
    old = {**MACHINE["devices"][0], "built_for": False}
    assert states(devices({**MACHINE, "devices": [old]}))["cuda:0"] == "broken"
    assert states(devices({**MACHINE, "devices": []}))["gpu"] == "broken"  # a driver, and torch cannot use it
    assert states(devices({**MACHINE, "devices": [], "driver": None}))["gpu"] == "ok"
    assert states(devices({**MACHINE, "faiss": {"error": "ImportError: no"}}))["faiss"] == "broken"
    judged = {f.name: f for f in operators(MACHINE)}
    assert judged["cpu"].state == "ok" and judged["cuda"].state == "broken" and "roi_align" in judged["cuda"].text


def test_a_full_disk_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr("ovd.engine.doctor.machine.shutil.disk_usage", lambda path: argparse.Namespace(free=1000))
    found = memory_and_disk([tmp_path / "not" / "there"])
    assert found[0].name == "processor" and found[1].state == "broken" and "1 kB free" in found[1].text


def test_findings_are_plain_json(world):
    found = [*look_at_data(world)[str(world)], *look_at_config(world / "config.py").findings, *look_at_packages(),
             *memory_and_disk([world])]
    assert json.loads(json.dumps([f.to_json() for f in found]))
