"""Input files are found in a config and checked before work begins."""

import pytest
import torch
from mmengine.config import Config
from tiny_world import write_caches, write_world

from ovd.clip.crops import CropRecipe
from ovd.engine.preflight import check_class_heads, check_crops, check_inputs, find_inputs, fingerprints
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest


@pytest.fixture
def world(tmp_path):
    root = write_world(tmp_path / "data", ["red", "green"], ["blue"], train=3, val=2)
    write_caches(root)
    return root


def config(root, **model) -> Config:
    dataset = {"data_root": str(root), "ann_file": "annotations/train.json", "region_store": "regions"}
    classifier = {"data_root": str(root), "class_head": "head.safetensors"}
    return Config({"model": {"head": {"classifier": classifier}, **model}, "load_from": None,
                   "train_dataloader": {"dataset": {"oversample_thr": 1e-3, "dataset": dataset}}})


SECTIONS = ("model", "train_dataloader")


def test_inputs_are_found_at_any_depth(world):
    cfg = config(world, backbone={"init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}})
    found = find_inputs(cfg, SECTIONS)
    assert {entry.kind: entry.path.name for entry in found} == {
        "ann_file": "train.json", "region_store": "regions", "class_head": "head.safetensors"}
    check_inputs(found)
    prints = fingerprints(found)
    assert set(prints) == {"ann_file", "region_store", "class_head"}
    assert all(value.startswith("sha256:") for value in prints.values())


def test_weights_to_start_from_are_inputs(world, tmp_path):
    cfg = config(world, backbone={"init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "resnet.pth")}})
    cfg.load_from = str(tmp_path / "soco.pth")
    assert {entry.kind for entry in find_inputs(cfg, SECTIONS)} >= {"checkpoint", "load_from"}


@pytest.mark.parametrize(("name", "remedy"), [("annotations/train.json", "ovd build-zsl"),
                                              ("head.safetensors", "ovd class-embeddings"),
                                              ("regions", "ovd embed-regions")])
def test_a_missing_input_is_named_with_what_makes_it(world, name, remedy):
    (world / name).rename(world / "away")
    with pytest.raises(UserError, match=f"{name}: not found.*{remedy}"):
        check_inputs(find_inputs(config(world), SECTIONS))


@pytest.mark.parametrize(("key", "level"), [("block_store", "blocks"), ("global_store", "globals")])
def test_a_missing_level_of_the_pyramid_is_named_with_what_makes_it(world, key, level):
    cfg = config(world)
    cfg.train_dataloader.dataset[key] = "nowhere"
    with pytest.raises(UserError, match=f"nowhere: not found.*--what {level}"):
        check_inputs(find_inputs(cfg, SECTIONS))


def test_a_class_head_must_have_the_models_width_and_the_splits_classes(world):
    part = {"data_root": str(world), "class_head": "head.safetensors", "split": "annotations/split.json",
            "embed_dim": 8}
    check_class_heads({"deep": [{"classifier": part}]})
    with pytest.raises(UserError, match="has width 8, but the model's embeddings have 512"):
        check_class_heads({"classifier": {**part, "embed_dim": 512}})
    with pytest.raises(UserError, match="lacks 65 of the 65 classes of split 48_17, such as 'person'"):
        check_class_heads({"classifier": {**part, "split": "48_17"}})


def test_a_detector_without_a_clip_takes_classes_of_its_own_features_alone(world, tmp_path):
    own = ClassHead(("red",), torch.ones(1, 1, 8), norm="linear", stats={"space": "fcos:one"})
    own.save(tmp_path / "own.safetensors")
    check_class_heads({"bbox_head": {"class_head": str(tmp_path / "own.safetensors"), "feat_channels": 8}})
    for file, width in ((tmp_path / "own.safetensors", 256), (world / "head.safetensors", 8)):
        with pytest.raises(UserError, match=rf"{file.name}: classes of width 8.*of its own, of width {width}: make"):
            check_class_heads({"bbox_head": {"class_head": str(file), "feat_channels": width}})


def test_class_head_and_regions_must_have_one_width(world, tmp_path):
    other = write_world(tmp_path / "other", ["red", "green"], ["blue"], train=3, val=2)
    write_caches(other, width=16)
    (world / "head.safetensors").unlink()
    (other / "head.safetensors").rename(world / "head.safetensors")
    with pytest.raises(UserError, match=r"head\.safetensors has width 16, but .*regions has width 8"):
        check_inputs(find_inputs(config(world), SECTIONS))


def test_class_head_and_regions_must_come_from_one_clip(world, tmp_path):
    other = write_world(tmp_path / "other", ["red", "green"], ["blue"], train=3, val=2)
    write_caches(other, clip="sha256:another")
    (world / "head.safetensors").unlink()
    (other / "head.safetensors").rename(world / "head.safetensors")
    with pytest.raises(UserError, match="different CLIPs"):
        check_inputs(find_inputs(config(world), SECTIONS))


@pytest.mark.parametrize(("recorded", "said"), [
    ({"recipe": {**CropRecipe("clip").config(), "kind": "adaptive"}}, "recipe.kind adaptive .the config says clip"),
    ({"recipe": CropRecipe("clip").config(), "masked_attention": True, "upsample": 2}, "masked_attention True"),
    ({"recipe": CropRecipe("clip").config()}, None), ({}, None)])
def test_a_store_of_other_crops_than_the_config_asks_for_is_refused(world, recorded, said):
    manifest = Manifest.read(world / "regions")
    manifest.config = recorded
    manifest.write(world / "regions")
    cfg = config(world)
    cfg.regions = {"pretrained": "shapes", "recipe": {"kind": "clip"}}
    inputs = find_inputs(cfg, SECTIONS)
    if said is None:
        check_crops(cfg, inputs)
    else:
        with pytest.raises(UserError, match=said):
            check_crops(cfg, inputs)
