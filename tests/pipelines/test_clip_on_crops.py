"""CLIP on crops as a command: figures, files and pictures from cached and from fresh embeddings; refusals."""

import copy
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from tiny_world import unit_rows, write_caches, write_world

from ovd.clip.towers import load_clip, save_described
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions, RegionStore
from pipelines.cli import run_stage
from pipelines.clip_on_crops import clip_on_crops
from pipelines.region_embeddings import embed_regions

BASE, NOVEL = ["red", "green"], ["blue"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def write_proposals(root, count=6):
    """Proposals of the validation images: the objects' boxes, a little off, and boxes anywhere."""
    contents = json.loads((root / "annotations" / "val.json").read_text())
    rng = np.random.default_rng(1)
    regions = {}
    for image in contents["images"]:
        true = np.array([a["bbox"] for a in contents["annotations"] if a["image_id"] == image["id"]], float)
        true[:, 2:] += true[:, :2]
        corners = rng.uniform(0, 40, (count, 2))
        boxes = np.vstack([(true + rng.uniform(-1, 1, true.shape)).clip(0, 64),
                           np.hstack([corners, corners + rng.uniform(6, 24, (count, 2))])])
        scores = np.linspace(0.9, 0.1, len(boxes)).astype(np.float32)
        regions[image["id"]] = Regions(boxes.astype(np.float32), scores)
    writer = RegionStore.create(root / "proposals" / "val", "proposals", list(regions))
    writer.write(0, regions)
    writer.finish("proposals", {}, {})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset with proposals, a random CLIP, its class head (``clip_head.safetensors``) and that of another one."""
    root = write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)
    write_caches(root)
    write_proposals(root)
    torch.manual_seed(0)
    save_described(root / "clip.safetensors", open_clip.CLIP(**CLIP), CLIP, None, {})
    fingerprint = load_clip(str(root / "clip.safetensors")).fingerprint
    rows = unit_rows(np.random.default_rng(2), 3, 16)[:, None]
    ClassHead((*BASE, *NOVEL), rows, scale=20.0, stats={"clip": fingerprint}).save(root / "clip_head.safetensors")
    ClassHead((*BASE, *NOVEL), rows, stats={"clip": "sha256:other"}).save(root / "other_head.safetensors")
    return root


def options(root):
    regions = {"pretrained": str(root / "clip.safetensors")}
    return ["+val_ann=annotations/val.json", "+val_prefix=val", "+proposal_store_val=proposals/val",
            f"+regions={regions!r}", "class_head=clip_head.safetensors"]


@pytest.fixture(scope="module")
def config(root):
    return root / "tests" / "tiny_vild.py"


@pytest.fixture(scope="module")
def store(config, world):
    path = embed_regions(config, options=options(world), data_root=world, subset="val", processes=1, device="cpu")
    assert path == world / "regions" / "val"
    return path


def evaluate(config, world, work_dir, **changes):
    settings = {"class_head": world / "clip_head.safetensors", "device": "cpu", **changes}
    return clip_on_crops(config, data_root=world, work_dir=work_dir, options=options(world), **settings)


def test_the_command_writes_what_testing_a_detector_does(config, world, store, root, tmp_path):
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, root / "tools" / "clip_on_crops.py", config, "--objectness", "--diagnostics", "--data-root",
         world, "--class-head", world / "clip_head.safetensors", "--work-dir", tmp_path / "work", "--out", out,
         "--show-dir", tmp_path / "pictures", "--show-limit", "2", "--show-score", "0", "--device", "cpu",
         "--cfg-options", *options(world)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "1-label AP50" in done.stdout and "accuracy" in done.stdout
    figures = json.loads((tmp_path / "work" / "metrics.json").read_text())
    assert set(figures) >= {f"{group}/{name}" for group in ("base", "novel", "all")
                            for name in ("ap", "ap50", "top1_ap50", "accuracy")}
    evaluate(config, world, tmp_path / "again", objectness=True, diagnostics=True)
    assert figures == json.loads((tmp_path / "again" / "metrics.json").read_text())
    found = json.loads(out.read_text())
    scores = {id_: RegionStore(store)[id_].scores for id_ in {row["image_id"] for row in found}}
    assert len(scores) == 6 and all(row["score"] <= np.sqrt(scores[row["image_id"]].max()) for row in found)
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_fresh_embeddings_give_the_figures_of_cached_ones(config, world, store, tmp_path):
    evaluate(config, world, tmp_path / "cached", out=tmp_path / "cached.json")
    evaluate(config, world, tmp_path / "fresh", out=tmp_path / "fresh.json", fresh=True)
    assert (tmp_path / "fresh" / "metrics.json").read_text() == (tmp_path / "cached" / "metrics.json").read_text()
    cached, fresh = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("cached", "fresh"))
    assert len(fresh) == len(cached) > 0
    np.testing.assert_allclose([row["score"] for row in fresh], [row["score"] for row in cached], atol=1e-3)


def test_accuracy_is_that_of_crops_at_the_ground_truth(config, world, store, tmp_path):
    from PIL import Image

    from ovd.clip.crops import CropRecipe
    from ovd.clip.regions import RegionEncoder

    figures = evaluate(config, world, tmp_path, diagnostics=True)
    encoder = RegionEncoder(load_clip(str(world / "clip.safetensors")), CropRecipe())
    head = ClassHead.load(world / "clip_head.safetensors")
    contents = json.loads((world / "annotations" / "val.json").read_text())
    files = {image["id"]: image["file_name"] for image in contents["images"]}
    right = []
    for entry in contents["annotations"]:
        x, y, w, h = entry["bbox"]
        row = encoder(Image.open(world / "val" / files[entry["image_id"]]), np.array([[x, y, x + w, y + h]], float))
        right.append(int(head.logits(torch.from_numpy(row).float()).argmax()) == entry["category_id"])
    assert figures["all/accuracy"] == pytest.approx(100 * np.mean(right))


def test_masks_come_from_a_detector_and_stay_inside_the_proposals(config, world, store, detector, tmp_path):
    from hotcoco import mask as rle

    masks_from = (str(config), str(detector / "detector.pth"))
    figures = evaluate(config, world, tmp_path, masks_from=masks_from, out=tmp_path / "found.json")
    assert "all/mask_ap" in figures and "all/ap50" in figures
    found = json.loads((tmp_path / "found.json").read_text())
    filled = 0
    for row in found:
        counts = row["segmentation"]["counts"].encode()
        ys, xs = np.nonzero(rle.decode({"size": row["segmentation"]["size"], "counts": counts}))
        x, y, w, h = row["bbox"]
        filled += len(xs) > 0
        assert not len(xs) or (xs.min() >= x - 1.5 and xs.max() <= x + w + 1 and ys.min() >= y - 1.5
                               and ys.max() <= y + h + 1)
    assert filled > len(found) / 2


def test_masks_leave_nothing_in_the_records_of_the_images(config, world, detector):
    """Else the pixels of all images would be in memory at the end."""
    from mmdet.registry import DATASETS
    from mmengine.structures import InstanceData

    from ovd.engine.config import load_config
    from ovd.models.proposal_masks import ProposalMasks

    cfg = load_config(config, (), world)
    record = DATASETS.build(cfg.test_dataloader.dataset).get_data_info(0)
    before = copy.deepcopy({key: value for key, value in record.items() if "store" not in key})
    found = InstanceData(bboxes=torch.tensor([[3.0, 3, 30, 40]] * 2), roi_index=torch.tensor([4, 4]))
    ProposalMasks(cfg, detector / "detector.pth", torch.device("cpu")).add(found, record)
    assert {key: value for key, value in record.items() if "store" not in key} == before
    assert found.masks.shape == (2, record["height"], record["width"]) and torch.equal(*found.masks)


@pytest.fixture(scope="module")
def detector(config, world, tmp_path_factory):
    """A detector of random weights, and a region store of the validation images in its CLIP's space."""
    from mmdet.registry import MODELS

    from ovd.engine.config import load_config

    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    model = MODELS.build(load_config(config, data_root=world).model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "detector.pth")
    proposals, rng = RegionStore(world / "proposals" / "val"), np.random.default_rng(4)
    writer = RegionStore.create(folder / "regions", "regions", proposals.image_ids, dim=8)
    writer.write(0, {int(i): Regions(proposals[i].boxes, proposals[i].scores,
                                     unit_rows(rng, len(proposals[i].boxes), 8).astype(np.float16))
                     for i in proposals.image_ids})
    writer.finish("embed-regions", {}, {"clip": "sha256:tiny"})
    return folder


def test_cached_regions_in_a_trained_detector(config, world, detector, tmp_path, capsys):
    def found_with(*words):
        out = tmp_path / "found.pkl"
        status = run_stage("test", [str(config), str(detector / "detector.pth"), "--data-root", str(world), "--device",
                                    "cpu", "--work-dir", str(tmp_path / "work"), "--eval", "bbox", "--out", str(out),
                                    "--cfg-options", "model.test_cfg.rcnn.max_per_img=40", *words])
        assert status == 0, capsys.readouterr().err
        return pickle.loads(out.read_bytes())

    cached = ("--cached-regions", str(detector / "regions"), "--cached-weights")
    head, store = ClassHead.load(world / "head.safetensors"), RegionStore(detector / "regions")
    for record in found_with(*cached, "1", "1"):  # CLIP alone: the scores are its probabilities of the store's rows
        rows = torch.from_numpy(store[record["img_id"]].embeddings.astype(np.float32))
        probabilities = head.probabilities(rows).numpy()
        best = np.abs(record["scores"][:, None] - probabilities[:, record["labels"]].T).min(axis=1)
        assert len(best) >= len(rows) and best.max() < 1e-5
    own = found_with(*cached, "0", "0")
    default = found_with(*cached[:2])
    assert [len(record["scores"]) for record in own] != [0] * 6
    assert any(not np.array_equal(a["scores"], b["scores"]) for a, b in zip(own, default))


@pytest.mark.parametrize(("words", "message"), [
    (["--cached-weights", "0.3", "0.6"], "no cached regions"),
    (["--cached-regions", "regions", "--cached-weights", "0.3", "1.6"], "rescore_beta"),
    (["--cached-regions", "proposals"], "has no embeddings"),
    (["--cached-regions", "nowhere"], "not found"),
    (["--cached-regions", "other"], "different CLIPs"),
    (["--cached-regions", "train"], "not in its region store"),
])
def test_cached_regions_that_do_not_fit_are_refused(config, world, detector, tmp_path, capsys, words, message):
    other = detector / "other"
    if not other.exists():
        shutil.copytree(detector / "regions", other)
        manifest = other / "manifest.json"
        manifest.write_text(manifest.read_text().replace("sha256:tiny", "sha256:other"))
    places = {"regions": detector / "regions", "other": other, "nowhere": detector / "nowhere",
              "proposals": world / "proposals" / "val", "train": world / "regions"}
    status = run_stage("test", [str(config), str(detector / "detector.pth"), "--data-root", str(world), "--device",
                                "cpu", "--work-dir", str(tmp_path / "work"),
                                *(str(places.get(word, word)) for word in words)])
    assert status == 2 and message in capsys.readouterr().err


def test_cached_regions_that_cannot_follow_the_test_images_are_refused(config, world, detector):
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    from ovd.engine.config import load_config
    from pipelines.test import CachedOptions

    init_default_scope("mmdet")
    cfg = load_config(config, (), world)
    CachedOptions(detector / "regions").apply(cfg)
    assert len(DATASETS.build(cfg.test_dataloader.dataset)[0]["data_samples"].regions) > 0
    cfg = load_config(config, (), world)
    cfg.test_dataloader.dataset.pipeline.insert(1, {"type": "Expand"})
    CachedOptions(detector / "regions").apply(cfg)
    with pytest.raises(UserError, match="regions cannot follow"):
        DATASETS.build(cfg.test_dataloader.dataset)


@pytest.mark.parametrize(("changes", "message"), [
    ({"class_head": "other_head.safetensors"}, "different CLIPs"),
    ({"class_head": "head.safetensors"}, "has width 8"),
    ({"regions": "proposals/val"}, "has no embeddings"),
    ({"regions": "regions/nowhere"}, "--subset val, or pass --fresh"),
    ({"regions": "regions", "class_head": "head.safetensors"}, "holds no regions of 6 image"),
    ({"regions": "regions/val", "fresh": True}, "give one of them"),
    ({"kinds": ["segm"]}, "--masks-from"),
    ({"out": "found.txt"}, "write a .json or a .pkl"),
    ({"temperature": 0.0}, "above 0"),
])
def test_wrong_input_is_refused(config, world, store, tmp_path, changes, message):
    placed = {key: world / value if key in ("class_head", "regions") else value for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        evaluate(config, world, tmp_path, **placed)
    assert not (tmp_path / "metrics.json").exists()


def test_figures_of_an_untrained_clip_are_marked(config, world, tmp_path, capsys):
    marked = RegionStore(world / "regions" / "val")
    (world / "marked").mkdir(exist_ok=True)
    writer = RegionStore.create(world / "marked" / "val", "regions", marked.image_ids, dim=16)
    writer.write(0, {int(image_id): marked[int(image_id)] for image_id in marked.image_ids})
    writer.finish("embed-regions", {}, marked.manifest.inputs, flags={"untrained": True})
    evaluate(config, world, tmp_path, regions=world / "marked" / "val")
    assert "WARNING" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["untrained"] is True
