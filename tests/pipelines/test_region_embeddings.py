"""The stage that embeds proposals: right rows for every image, resumable to the same bytes, bad input in one line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tiny_world import write_world

from ovd.clip.crops import CropRecipe
from ovd.clip.levels import Blocks, Globals, Objects
from ovd.clip.regions import RegionEncoder
from ovd.clip.shard_job import ImageFile
from ovd.clip.towers import load_clip, save_described
from ovd.errors import UserError
from ovd.stores.shards import Regions, RegionStore
from pipelines.region_embeddings import embed_regions

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
CONFIG = """
data_root = {root!r}
train_ann, train_prefix = 'annotations/train.json', 'train'
val_ann, val_prefix = 'annotations/val.json', 'val'
proposal_store_train, proposal_store_val = 'proposals/train', 'proposals/val'
region_store, region_store_val = 'regions/train', 'regions/val'
block_store, global_store = 'blocks/train', 'globals/train'
regions = dict(pretrained={clip!r}, recipe=dict(kind='clip', scales=(1.0, 1.5)), top_k=6, images_per_shard=3)
"""


def write_proposals(root, subset, count=9):
    images = json.loads((root / "annotations" / f"{subset}.json").read_text())["images"]
    rng = np.random.default_rng(1)
    writer = RegionStore.create(root / "proposals" / subset, "proposals", [image["id"] for image in images])
    regions = {}
    for image in images:
        corners = rng.uniform(0, 40, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(3, 24, (count, 2))]).astype(np.float32)
        regions[image["id"]] = Regions(boxes, np.sort(rng.random(count).astype(np.float32))[::-1])
    writer.write(0, regions)
    writer.finish("proposals", {}, {})


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "tiny_clip.safetensors"
    save_described(path, open_clip.CLIP(**CLIP), CLIP, None, {})
    return path


@pytest.fixture
def world(tmp_path, clip_file):
    """A dataset of eight training images in three shards; returns its folder, with ``config.py`` in it."""
    root = write_world(tmp_path / "data", ["red box", "green box"], ["blue box"])
    for subset in ("train", "val"):
        write_proposals(root, subset)
    (root / "config.py").write_text(CONFIG.format(root=str(root), clip=str(clip_file)))
    return root


def embed(root, **options):
    return embed_regions(root / "config.py", **{"processes": 1, "device": "cpu", **options})


def shard_bytes(store):
    return {file.name: file.read_bytes() for file in sorted(Path(store).glob("shard-*.h5"))}


def image_files(root):
    return sorted((root / "train").iterdir())


def test_rows_are_those_of_the_encoder_image_by_image(world, clip_file, capsys):
    store = RegionStore(embed(world))
    proposals = RegionStore(world / "proposals" / "train")
    encoder = RegionEncoder(load_clip(str(clip_file)), CropRecipe())
    assert store.image_ids.tolist() == proposals.image_ids.tolist()
    for image in json.loads((world / "annotations" / "train.json").read_text())["images"]:
        regions, given = store[image["id"]], proposals[image["id"]]
        np.testing.assert_array_equal(regions.boxes, given.boxes[:6])
        np.testing.assert_array_equal(regions.scores, given.scores[:6])
        expected = encoder(Image.open(world / "train" / image["file_name"]).convert("RGB"), given.boxes[:6])
        np.testing.assert_allclose(regions.embeddings, expected, atol=2e-3)
    assert "48 regions of 8 images" in capsys.readouterr().out


def test_manifest_says_what_the_store_was_made_from(world, clip_file):
    manifest = RegionStore(embed(world)).manifest
    assert manifest.inputs["clip"] == load_clip(str(clip_file)).fingerprint
    assert manifest.inputs["proposals"] == RegionStore(world / "proposals" / "train").manifest.content
    assert manifest.config["recipe"]["scales"] == [1.0, 1.5]
    assert manifest.flags == {} and manifest.skipped == []


def test_a_current_store_is_left_alone_and_overwrite_builds_the_same_bytes(world, capsys):
    store = embed(world)
    before, times = shard_bytes(store), {file: file.stat().st_mtime_ns for file in store.iterdir()}
    embed(world)
    assert "up to date" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in store.iterdir()} == times
    embed(world, overwrite=True)
    assert shard_bytes(store) == before


def test_missing_and_damaged_shards_are_rebuilt_to_the_same_bytes(world):
    store = embed(world)
    before = shard_bytes(store)
    (store / "manifest.json").unlink()
    (store / "shard-00001-of-00003.h5").unlink()
    damaged = store / "shard-00002-of-00003.h5"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    kept = (store / "shard-00000-of-00003.h5").stat().st_mtime_ns
    embed(world)
    assert shard_bytes(store) == before
    assert (store / "shard-00000-of-00003.h5").stat().st_mtime_ns == kept


@pytest.mark.parametrize("options", [{"workers": 2}, {"processes": 2}])
def test_more_processes_give_the_same_bytes(world, options):
    alone, spread = world / "alone", world / "spread"
    embed(world, out=alone)
    embed(world, out=spread, **options)
    assert shard_bytes(alone) == shard_bytes(spread)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(world, root):
    expected = shard_bytes(embed(world, out=world / "whole"))
    out = world / "killed"
    command = [sys.executable, "tools/region_embeddings.py", str(world / "config.py"), "--out", str(out), "--device",
               "cpu", "--processes", "2"]
    first = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not list(out.glob("shard-*.h5")):
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert shard_bytes(out) == expected
    assert not [file for file in out.iterdir() if file.name.startswith(".")]


def test_another_recipe_or_clip_is_refused_and_overwrite_replaces_it(world):
    store = embed(world)
    with pytest.raises(UserError, match=r"regions/train: exists but .*recipe\.kind was \"clip\".*--overwrite"):
        embed(world, options={"regions.recipe.kind": "warp"})
    with pytest.raises(UserError, match=r"another 'clip'.*--overwrite"):
        embed(world, pretrained="untrained:RN50", allow_untrained=True)
    embed(world, options={"regions.recipe.kind": "warp"}, overwrite=True)
    assert RegionStore(store).manifest.config["recipe"]["kind"] == "warp"


def test_a_begun_store_of_another_recipe_is_refused(world):
    (embed(world) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"begun with another configuration.*--overwrite"):
        embed(world, options={"regions.recipe.kind": "warp"})


def test_untrained_needs_permission_and_marks_the_store(world, capsys):
    with pytest.raises(UserError, match="--allow-untrained"):
        embed(world, pretrained="untrained:RN50")
    store = embed(world, pretrained="untrained:RN50", allow_untrained=True, options={"regions.top_k": 1})
    assert RegionStore(store).manifest.flags == {"untrained": True}
    assert "mean nothing" in capsys.readouterr().out


def test_small_boxes_are_left_out(world):
    store = RegionStore(embed(world, options={"regions.recipe": {"min_size": 12}}))
    boxes = np.concatenate([store[image_id].boxes for image_id in store.image_ids.tolist()])
    assert 0 < len(boxes) < 48
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 12


def test_validation_images_have_a_store_of_their_own(world):
    store = RegionStore(embed(world, subset="val"))
    assert store.path == world / "regions" / "val"
    assert store.image_ids.tolist() == RegionStore(world / "proposals" / "val").image_ids.tolist()


def spoil_missing(file):
    file.unlink()


def spoil_cut(file):
    file.write_bytes(file.read_bytes()[:-40])


def spoil_text(file):
    file.write_text("not an image at all")


def spoil_size(file):
    Image.open(file).resize((64, 60)).save(file)


SPOILS = [(spoil_missing, "no such image"), (spoil_cut, "cut off or damaged"), (spoil_text, "not an image"),
          (spoil_size, "64 x 60.*64 x 64")]


@pytest.mark.parametrize(("spoil", "says"), SPOILS)
def test_bad_images_stop_the_stage_by_name(world, spoil, says):
    file = image_files(world)[4]
    spoil(file)
    with pytest.raises(UserError, match=f"{file.name}: .*{says}"):
        embed(world)


@pytest.mark.parametrize(("spoil", "says"), SPOILS)
def test_bad_images_can_be_skipped_and_are_recorded(world, spoil, says, capsys):
    import re

    file = image_files(world)[4]
    spoil(file)
    store = RegionStore(embed(world, on_error="skip"))
    (entry,) = store.manifest.skipped
    assert entry["file"] == file.name and re.search(says, entry["reason"])
    assert len(store[entry["image_id"]]) == 0
    assert sum(len(store[image_id]) for image_id in store.image_ids.tolist()) == 42
    out = capsys.readouterr().out
    assert file.name in out and "1 images are stored without regions" in out


def test_what_an_interrupted_run_skipped_is_recorded_too(world):
    image_files(world)[0].unlink()
    store = embed(world, on_error="skip")
    (store / "manifest.json").unlink()
    (store / "shard-00002-of-00003.h5").unlink()
    embed(world, on_error="skip")
    assert [entry["file"] for entry in RegionStore(store).manifest.skipped] == [image_files_name(world, 0)]


def image_files_name(root, position):
    images = json.loads((root / "annotations" / "train.json").read_text())["images"]
    return sorted(image["file_name"] for image in images)[position]


def test_turned_photos_are_refused_with_the_reason(world):
    file = image_files(world)[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(file).resize((48, 64)).save(file, exif=exif)
    with pytest.raises(UserError, match=r"48 x 64.*EXIF orientation 6 is not applied"):
        embed(world)


def test_proposals_of_other_images_are_refused(world):
    with pytest.raises(UserError, match="holds no regions of 8 image"):
        embed(world, options={"proposal_store_train": "proposals/val"})


def test_boxes_of_another_proposal_store_can_be_embedded(world):
    ids = RegionStore(world / "proposals" / "train").image_ids.tolist()
    writer = RegionStore.create(world / "elsewhere", "proposals", ids)
    box = Regions(np.array([[8, 4, 30, 19]], np.float32), np.ones(1, np.float32))
    writer.write(0, dict.fromkeys(ids, box))
    writer.finish("proposals", {}, {})
    store = RegionStore(embed(world, proposals=world / "elsewhere", out=world / "annotated"))
    assert store.path == world / "annotated"
    assert store.manifest.inputs["proposals"] == RegionStore(world / "elsewhere").manifest.content
    assert all(store[image_id].boxes.tolist() == [[8, 4, 30, 19]] for image_id in ids)


def test_blocks_and_whole_images_have_stores_of_their_own(world, clip_file):
    clip = load_clip(str(clip_file))
    for what, level in (("blocks", Blocks(16)), ("globals", Globals())):
        store = RegionStore(embed(world, what=what))
        assert store.path == world / what / "train"
        assert store.manifest.config["what"] == what and set(store.manifest.inputs) == {"clip", "annotations"}
        for image in json.loads((world / "annotations" / "train.json").read_text())["images"][:3]:
            boxes, _ = level.choose(image["id"], ImageFile(None, image["width"], image["height"]))
            picture = Image.open(world / "train" / image["file_name"]).convert("RGB")
            np.testing.assert_array_equal(store[image["id"]].boxes, boxes)
            np.testing.assert_allclose(store[image["id"]].embeddings, level.encoder(clip, 8)(picture, boxes), atol=2e-3)
    assert len(boxes) == 1
    assert boxes[0].tolist() == [0, 0, image["width"], image["height"]]


def test_a_level_is_resumed_to_the_same_bytes(world):
    store = embed(world, what="blocks")
    before = shard_bytes(store)
    (store / "manifest.json").unlink()
    (store / "shard-00001-of-00003.h5").unlink()
    assert shard_bytes(embed(world, what="blocks", processes=2)) == before


MASKED = {"regions.recipe": {"kind": "adaptive", "scales": (1.0,), "min_size": 4}, "+regions.masked_attention": True,
          "+regions.upsample": 2}


def test_masked_attention_is_in_the_manifest_and_caches_do_not_mix(world, clip_file):
    store = embed(world, options=MASKED)
    config = RegionStore(store).manifest.config
    assert (config["masked_attention"], config["upsample"], config["recipe"]["kind"]) == (True, 2, "adaptive")
    level = Objects(RegionStore(world / "proposals" / "train"), CropRecipe("adaptive", (1.0,), min_size=4), 6, True, 2)
    image = json.loads((world / "annotations" / "train.json").read_text())["images"][0]
    picture = Image.open(world / "train" / image["file_name"]).convert("RGB")
    regions = RegionStore(store)[image["id"]]
    encoder = level.encoder(load_clip(str(clip_file)), None)
    np.testing.assert_allclose(regions.embeddings, encoder(picture, regions.boxes), atol=2e-3)
    with pytest.raises(UserError, match=r"upsample was 2.*--overwrite"):
        embed(world, options={**MASKED, "+regions.upsample": 1})
    with pytest.raises(UserError, match=r"masked_attention.*--overwrite"):
        embed(world, options={"regions.recipe": MASKED["regions.recipe"]})


def test_the_command_line_embeds_blocks(world, root):
    command = [sys.executable, "tools/region_embeddings.py", str(world / "config.py"), "--what", "blocks", "--out",
               str(world / "out"), "--processes", "1", "--device", "cpu"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert RegionStore(world / "out").manifest.config["what"] == "blocks"
    assert "regions of 8 images" in result.stdout


@pytest.mark.parametrize(("arguments", "says"), [
    ({"what": "blocks", "proposals": "elsewhere"}, "blocks are not made from proposals"),
    ({"what": "globals", "compile": "on"}, "neither whole images nor masked attention are compiled"),
    ({"options": {"+regions.upsample": 2}}, "belongs to masked attention"),
    ({"options": {**MASKED, "+regions.upsample": 3}}, "cannot be divided by 3"),
    ({"options": {"+regions.masked_attention": True}}, "hold all of the box"),
])
def test_levels_that_do_not_fit_are_refused_before_there_is_a_store(world, arguments, says):
    with pytest.raises(UserError, match=says):
        embed(world, **arguments)
    assert not (world / "regions" / "train").exists() and not (world / "blocks").exists()


def test_damaged_proposals_are_refused_before_any_work(world):
    (shard,) = (world / "proposals" / "train").glob("shard-*.h5")
    content = bytearray(shard.read_bytes())
    box = RegionStore(world / "proposals" / "train")[1].boxes[0].tobytes()
    content[content.index(box)] ^= 1  # the last bit of a coordinate: nothing else would tell
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"proposals/train/shard-.*checksum"):
        embed(world)
    assert not shard_bytes(world / "regions" / "train")


def test_boxes_outside_their_image_are_refused_before_any_work(world):
    ids = RegionStore(world / "proposals" / "train").image_ids.tolist()
    writer = RegionStore.create(world / "proposals" / "far", "proposals", ids)
    box = Regions(np.array([[70, 0, 80, 9]], np.float32), np.ones(1, np.float32))
    writer.write(0, dict.fromkeys(ids, box))
    writer.finish("proposals", {}, {})
    with pytest.raises(UserError, match=r"image 1 .*\(70, 0, 80, 9\) lies outside the image of 64 x 64"):
        embed(world, options={"proposal_store_train": "proposals/far"})
    assert not shard_bytes(world / "regions" / "train")


@pytest.mark.parametrize(("options", "says"), [
    ({"+regions.topk": 5}, "no key 'topk'; did you mean top_k"),
    ({"+regions.recipe.scale": 5}, "regions.recipe has no key 'scale'; did you mean scales"),
    ({"regions.recipe.kind": "wrap"}, "did you mean warp"),
    ({"regions.top_k": 0}, "regions.top_k = 0"),
    ({"regions.pretrained": ""}, "no CLIP is named"),
    ({"proposal_store_train": "proposals/none"}, "proposals/none: does not exist"),
    ({"train_ann": "annotations/none.json"}, "annotations/none.json"),
])
def test_mistakes_in_the_config_are_named(world, options, says):
    with pytest.raises(UserError, match=says):
        embed(world, options=options)


def test_the_tool_exits_with_status_2_and_one_line(world, root):
    image_files(world)[0].unlink()
    result = subprocess.run([sys.executable, "tools/region_embeddings.py", str(world / "config.py")], cwd=root,
                            capture_output=True, text=True)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        result.stderr.splitlines()[-1]]
    assert "Traceback" not in result.stderr
