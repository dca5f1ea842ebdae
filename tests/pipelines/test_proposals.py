"""The stage that extracts proposals: right boxes for every image, resumed to the same bytes, bad input in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tiny_world import write_world

from ovd.engine.launch import quiet
from ovd.errors import UserError
from ovd.stores.manifest import Manifest, fingerprint
from ovd.stores.shards import RegionStore
from pipelines.cli import run_stage

quiet()

from mmdet.registry import MODELS  # noqa: E402

from ovd.models.proposal_network import ProposalNetwork, trained_classes  # noqa: E402
from pipelines.proposals.exchange import export_proposals, import_proposals  # noqa: E402
from pipelines.proposals.extraction import extract_proposals  # noqa: E402

CLASSES = ["red box", "green box", "blue box"]
MEAN = [110.0, 115.0, 120.0]
CONFIG = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.models import FPN, RPN, DetDataPreprocessor, ResNet, RPNHead
from mmdet.models.losses import CrossEntropyLoss, L1Loss
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder

data_root = {root!r}
split = 'annotations/split.json'
train_ann, train_prefix = 'annotations/train.json', 'train'
val_ann, val_prefix = 'annotations/val.json', 'val'
proposal_store_train, proposal_store_val = 'proposals/train', 'proposals/val'
proposals = dict(max_per_image=20, images_per_shard=3)
model = dict(
    type=RPN,
    data_preprocessor=dict(type=DetDataPreprocessor, mean={mean!r}, std=[50.0] * 3, bgr_to_rgb=True,
                           pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18, base_channels=8, norm_eval=True, init_cfg=dict(
        type='Pretrained', checkpoint='not/there.pth')),
    neck=dict(type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
    rpn_head=dict(
        type=RPNHead, in_channels=16, feat_channels=16,
        anchor_generator=dict(type=AnchorGenerator, scales=[5], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True), loss_bbox=dict(type=L1Loss)),
    train_cfg=None,
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type=LoadImageFromFile), dict(type=Resize, scale=(96, 96), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True), dict(type=PackDetInputs)]))
"""


def plain_rpn(config: Path) -> torch.nn.Module:
    """The config's model as mmdet builds it, without pretrained weights."""
    model = Config.fromfile(config).model
    model.backbone.init_cfg = None
    return MODELS.build(model)


@pytest.fixture
def world(tmp_path):
    """Eight training and six validation images, two of them wide; ``config.py`` and ``rpn.pth`` beside the data."""
    root = write_world(tmp_path / "data", CLASSES[:2], CLASSES[2:])
    (root / "config.py").write_text(CONFIG.format(root=str(root), mean=MEAN))
    for subset in ("train", "val"):
        contents = annotations(root, subset)
        for image in contents["images"][1:3]:
            picture = Image.open(root / subset / image["file_name"])
            picture.resize((128, 64)).save(root / subset / image["file_name"])
            image["width"] = 128
        empty = contents["images"][3]["id"]  # an image without annotations is an image all the same
        contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] != empty]
        contents["images"].reverse()
        (root / "annotations" / f"{subset}.json").write_text(json.dumps(contents))
    torch.manual_seed(0)
    model = plain_rpn(root / "config.py")
    torch.nn.init.normal_(model.bbox_head.rpn_cls.weight, std=0.5)
    torch.nn.init.normal_(model.bbox_head.rpn_reg.weight, std=0.1)
    meta = {"dataset_meta": {"classes": CLASSES, "num_base": 2}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, root / "rpn.pth")
    return root


def annotations(root: Path, subset: str) -> dict:
    return json.loads((root / "annotations" / f"{subset}.json").read_text())


def extract(root, **options):
    options = {"subsets": ["train"], "processes": 1, "device": "cpu", **options}
    return extract_proposals(root / "config.py", options.pop("checkpoint", root / "rpn.pth"), **options)


def shard_bytes(store) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(Path(store).glob("shard-*.h5"))}


def test_every_image_has_its_boxes_in_order_and_inside(world, capsys):
    recalls = extract(world, subsets=["train", "val"])
    for subset in ("train", "val"):
        images = annotations(world, subset)["images"]
        store = RegionStore(world / "proposals" / subset)
        assert store.kind == "proposals" and sorted(image["id"] for image in images) == store.image_ids.tolist()
        for image in images:
            regions = store[image["id"]]
            assert 0 < len(regions) <= 20
            assert (np.diff(regions.scores) <= 0).all()
            assert (regions.boxes >= 0).all() and (regions.boxes[:, 2] <= image["width"]).all()
            assert (regions.boxes[:, 3] <= image["height"]).all()
    assert recalls["train"]["novel"].objects == 0 and recalls["val"]["novel"].objects > 0
    assert set(recalls["val"]) == {"base", "novel", "all"}
    printed = capsys.readouterr().out
    assert "proposals of 8 images" in printed and "AR@1000" in printed and "a leak" not in printed


def test_boxes_equal_those_of_mmdet_one_image_at_a_time(world):
    extract(world)
    model = plain_rpn(world / "config.py").eval()
    model.load_state_dict(torch.load(world / "rpn.pth")["state_dict"])
    store = RegionStore(world / "proposals" / "train")
    from mmdet.structures import DetDataSample
    for image in annotations(world, "train")["images"]:
        pixels = cv2.imread(str(world / "train" / image["file_name"]))
        scale = 96 / max(pixels.shape)
        resized = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        sample = DetDataSample(metainfo={"ori_shape": pixels.shape[:2], "img_shape": resized.shape[:2],
                                         "scale_factor": (scale, scale)})
        with torch.no_grad():
            found = model.test_step({"inputs": [torch.from_numpy(resized.transpose(2, 0, 1).copy())],
                                     "data_samples": [sample]})[0].pred_instances
        regions = store[image["id"]]
        np.testing.assert_allclose(regions.boxes, found.bboxes.numpy()[:20], atol=1e-3)
        np.testing.assert_allclose(regions.scores, found.scores.numpy()[:20], atol=1e-5)


def test_the_manifest_says_where_the_boxes_come_from(world):
    extract(world)
    manifest = Manifest.read(world / "proposals" / "train")
    assert (manifest.kind, manifest.stage) == ("proposals", "proposals")
    assert manifest.inputs == {"checkpoint": fingerprint(world / "rpn.pth"),
                               "annotations": fingerprint(world / "annotations" / "train.json")}
    assert manifest.flags == {"trained_on": CLASSES[:2], "trained_on_novel": []}
    assert manifest.config["max_per_image"] == 20


def test_a_network_that_saw_novel_classes_is_reported(world, capsys):
    checkpoint = torch.load(world / "rpn.pth")
    torch.save({**checkpoint, "meta": {"dataset_meta": {"classes": CLASSES}}}, world / "all.pth")
    extract(world, checkpoint=world / "all.pth")
    assert "trained on 1 of the 1 novel classes, such as blue box: a leak" in capsys.readouterr().out
    assert Manifest.read(world / "proposals" / "train").flags["trained_on_novel"] == ["blue box"]
    torch.save({**checkpoint, "meta": {}}, world / "unknown.pth")
    extract(world, checkpoint=world / "unknown.pth", overwrite=True)
    assert "trained on is not known" in capsys.readouterr().out


@pytest.mark.parametrize(("meta", "expected"), [
    ({"dataset_meta": {"classes": ["a", "b"], "num_base": 1}}, ("a",)),
    ({"classes": ["a", "b"], "num_base": 2}, ("a", "b")),
    ({"CLASSES": ("a", "b")}, ("a", "b")),
    ({"classes": [], "num_base": None}, None),
    (None, None),
])
def test_trained_classes_of_this_and_other_projects(meta, expected):
    assert trained_classes({"meta": meta}) == expected


def test_processes_and_resuming_give_the_same_bytes(world, capsys):
    extract(world, out=world / "one", threads=1, recall_images=0)
    extract(world, out=world / "two", threads=1, processes=2, recall_images=0)
    assert len(shard_bytes(world / "one")) == 3
    assert shard_bytes(world / "one") == shard_bytes(world / "two")
    (world / "two" / "manifest.json").unlink()
    cut = world / "two" / "shard-00001-of-00003.h5"
    cut.write_bytes(cut.read_bytes()[:1000])
    (world / "two" / "shard-00002-of-00003.h5").unlink()
    capsys.readouterr()
    extract(world, out=world / "two", threads=1, workers=2, recall_images=0)
    assert "1 shards were there before" in capsys.readouterr().out
    assert shard_bytes(world / "one") == shard_bytes(world / "two")


def test_batches_do_not_change_boxes(world):
    extract(world, out=world / "single", batch_size=1, recall_images=0)
    extract(world, out=world / "batched", batch_size=3, recall_images=0)
    single, batched = RegionStore(world / "single"), RegionStore(world / "batched")
    for image_id in single.image_ids:
        np.testing.assert_allclose(single[image_id].boxes, batched[image_id].boxes, atol=1e-3)


def test_torchrun_processes_give_the_same_bytes(world, root):
    extract(world, out=world / "one", threads=1, recall_images=0)
    subprocess.run([root / "tools" / "dist_extract_proposals.sh", world / "config.py", world / "rpn.pth", "2",
                    "--subset", "train", "--out", world / "two", "--threads", "1", "--device", "cpu"], check=True,
                   timeout=120, env={**os.environ, "PYTHON": sys.executable})
    assert shard_bytes(world / "one") == shard_bytes(world / "two")


def test_parts_of_an_array_give_the_same_bytes_and_the_last_finishes_the_store(world, root, capsys):
    extract(world, out=world / "one", threads=1, recall_images=0)
    capsys.readouterr()
    assert extract(world, out=world / "two", threads=1, part="2/2") == {}
    assert "2 of 3 shards are left to other parts" in capsys.readouterr().out
    assert sorted(shard_bytes(world / "two")) == ["shard-00001-of-00003.h5"]
    job = subprocess.run([root / "tools" / "slurm" / "extract_proposals.sh", world / "config.py", world / "rpn.pth",
                          "--subset", "train", "--out", world / "two", "--processes", "1", "--threads", "1",
                          "--device", "cpu"], capture_output=True, text=True, timeout=300,
                         env={**os.environ, "PYTHON": sys.executable, "SLURM_ARRAY_TASK_ID": "0",
                              "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_SUBMIT_DIR": str(root)})
    assert job.returncode == 0, job.stderr
    assert "1 shards were there before" in job.stdout and "recall" in job.stdout.lower()
    assert shard_bytes(world / "one") == shard_bytes(world / "two")
    assert not list((world / "two").glob(".lock*"))


def test_a_two_stage_detector_serves_with_its_rpn(world):
    extract(world, out=world / "rpn", recall_images=0)
    weights = torch.load(world / "rpn.pth")["state_dict"]
    renamed = {name.replace("bbox_head.", "rpn_head."): value for name, value in weights.items()}
    renamed["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(3, 3)
    torch.save({"state_dict": renamed}, world / "detector.pth")
    extract(world, checkpoint=world / "detector.pth", out=world / "detector", recall_images=0)
    one, other = RegionStore(world / "rpn"), RegionStore(world / "detector")
    assert all(np.array_equal(one[i].boxes, other[i].boxes) for i in one.image_ids)


def test_a_current_store_is_kept_and_a_stale_one_refused(world, capsys):
    extract(world)
    before = shard_bytes(world / "proposals" / "train")
    extract(world)
    printed = capsys.readouterr().out
    assert "up to date" in printed and printed.count("recall of the objects") == 2
    with pytest.raises(UserError, match=r"max_per_image was 20, now 5.*--overwrite"):
        extract(world, max_per_image=5)
    extract(world, max_per_image=5, overwrite=True)
    assert shard_bytes(world / "proposals" / "train") != before


def first_photo(world) -> Path:
    return world / "train" / annotations(world, "train")["images"][0]["file_name"]


def test_an_unreadable_image_stops_before_work_or_is_left_out(world, capsys):
    image = annotations(world, "train")["images"][0]
    photo = first_photo(world)
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"{photo.name}: cut off"):
        extract(world)
    assert not shard_bytes(world / "proposals" / "train")
    photo.unlink()
    with pytest.raises(UserError, match=rf"{photo.name}: no such image"):
        extract(world)
    extract(world, on_error="skip")
    store = RegionStore(world / "proposals" / "train")
    assert len(store[image["id"]]) == 0 and len(store) == 8
    assert [entry["image_id"] for entry in store.manifest.skipped] == [image["id"]]
    assert "1 images are stored without proposals" in capsys.readouterr().out


def test_an_image_of_another_size_than_annotated_is_refused(world):
    Image.new("RGB", (50, 60)).save(first_photo(world))
    with pytest.raises(UserError, match=r"is 50 x 60 pixels, but the annotations say 64 x 64"):
        extract(world)


def test_a_checkpoint_that_does_not_fit_is_refused(world):
    weights = torch.load(world / "rpn.pth")["state_dict"]
    torch.save({"state_dict": {n: v for n, v in weights.items() if "rpn_conv" not in n}}, world / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: not a checkpoint of this config's model.*rpn_conv"):
        extract(world, checkpoint=world / "other.pth")
    torch.save({"state_dict": {n: v * float("nan") if "rpn_reg" in n else v for n, v in weights.items()}},
               world / "nan.pth")
    with pytest.raises(UserError, match=r"nan\.pth: bbox_head\.rpn_reg\.\w+ holds values that are not finite"):
        extract(world, checkpoint=world / "nan.pth")


def test_a_config_without_rpn_or_with_unknown_settings_is_refused(world):
    config = world / "config.py"
    text = config.read_text()
    config.write_text(text + "\nmodel['rpn_head_'] = model.pop('rpn_head')\n")
    with pytest.raises(UserError, match="its model has no rpn_head"):
        extract(world)
    config.write_text(text + "\nproposals['max_per_img'] = 3\n")
    with pytest.raises(UserError, match=r"no key 'max_per_img'; did you mean max_per_image"):
        extract(world)
    config.write_text(text + "\nproposals['max_per_image'] = 0\n")
    with pytest.raises(UserError, match=r"proposals\.max_per_image = 0: needs a whole number"):
        extract(world)
    config.write_text(text + "\nproposal_store_val = proposal_store_train\n")
    with pytest.raises(UserError, match="share the store"):
        extract(world, subsets=["train", "val"])
    config.write_text(text.replace("train_ann, ", "train_other, "))
    with pytest.raises(UserError, match="train_ann is not set"):
        extract(world)


def write_pkl(world, path: Path, order: str, change=None) -> None:
    """An mmdet file with boxes near the objects of the validation images; ``change`` edits the list of arrays."""
    import pickle
    contents = annotations(world, "val")
    images = contents["images"] if order == "json" else sorted(contents["images"], key=lambda image: image["id"])
    rng = np.random.default_rng(0)
    arrays = []
    for image in images:
        boxes = [a["bbox"] for a in contents["annotations"] if a["image_id"] == image["id"]] or [[1, 1, 20, 20]]
        xywh = np.repeat(np.array(boxes, np.float32), 10, axis=0) + rng.normal(0, 0.8, (10 * len(boxes), 4))
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        xyxy = xyxy.clip(0, [image["width"], image["height"]] * 2)
        scores = np.linspace(1, 0.1, len(xyxy))[:, None]
        arrays.append(np.concatenate([xyxy, scores], axis=1).astype(np.float32))
    if change:
        change(arrays)
    path.write_bytes(pickle.dumps(arrays))


@pytest.mark.parametrize("order", ["json", "sorted"])
def test_mmdet_files_come_in_and_go_out_by_the_order_that_is_said(world, order, capsys):
    import pickle
    write_pkl(world, world / "in.pkl", order)
    recalls = import_proposals(world / "config.py", "val", world / "in.pkl", order, max_per_image=100)
    assert recalls["all"].at_50[100] == 100
    assert "warning" not in capsys.readouterr().out
    store = RegionStore(world / "proposals" / "val")
    assert store.manifest.inputs["pkl"] == fingerprint(world / "in.pkl")
    export_proposals(world / "config.py", "val", world / "out.pkl", order)
    before, after = (pickle.loads((world / name).read_bytes()) for name in ("in.pkl", "out.pkl"))
    assert len(before) == len(after) and all(np.array_equal(a, b) for a, b in zip(before, after))
    other = "sorted" if order == "json" else "json"
    export_proposals(world / "config.py", "val", world / "other.pkl", other)
    reordered = pickle.loads((world / "other.pkl").read_bytes())
    assert np.array_equal(reordered[0], before[-1])  # the file lists its images by descending id


def test_the_wrong_order_is_reported(world, capsys):
    write_pkl(world, world / "in.pkl", "json")
    contents = annotations(world, "val")
    for image in contents["images"]:  # of one size: nothing but recall can tell
        Image.new("RGB", (128, 64)).save(world / "val" / image["file_name"])
        image["width"] = 128
    (world / "annotations" / "val.json").write_text(json.dumps(contents))
    import_proposals(world / "config.py", "val", world / "in.pkl", "sorted")
    printed = capsys.readouterr().out
    assert "warning" in printed and "order" in printed


def test_wrong_files_and_boxes_are_refused(world):
    def drop_one(arrays):
        arrays.pop()

    def make_nan(arrays):
        arrays[1][0, 0] = np.nan

    def move_outside(arrays):
        arrays[0][0, :4] += 500

    for change, message in ((drop_one, "5"), (make_nan, "not finite|NaN|nan"), (move_outside, "outside")):
        write_pkl(world, world / "bad.pkl", "json", change)
        with pytest.raises(UserError, match=message):
            import_proposals(world / "config.py", "val", world / "bad.pkl", "json")
    assert not (world / "proposals" / "val").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--import-pkl", "x.pkl", "--subset", "val"], "--order json"),
    (["--import-pkl", "x.pkl", "--order", "json"], "--subset train, or --subset val"),
    (["--import-pkl", "x.pkl", "--order", "json", "--subset", "val", "rpn.pth"], "leave out the checkpoint"),
    (["--import-pkl", "x.pkl", "--export-pkl", "y.pkl"], "one at a time"),
    ([], "give the checkpoint"),
    (["rpn.pth", "--order", "json"], "--order belongs to"),
    (["nothing.pth"], "no such checkpoint"),
    (["rpn.pth", "--out", "x"], "--out is one store"),
    (["rpn.pth", "--batch-size", "0"], "--batch-size 0: needs 1 or more"),
])
def test_mistakes_on_the_command_line_are_one_line(world, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(world)
    files = [a for a in arguments if a.endswith(".pth")]
    assert run_stage("proposals", ["config.py", *files, *(a for a in arguments if a not in files)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_boxes_do_not_depend_on_what_shares_the_batch(world):
    network = ProposalNetwork(Config.fromfile(world / "config.py"), torch.load(world / "rpn.pth"), "rpn.pth")
    from ovd.data.images import Photo
    photos = [Photo(image["id"], str(world / "train" / image["file_name"]), image["height"], image["width"])
              for image in annotations(world, "train")["images"]]
    shapes = {network.padded_shape(network.prepare(photo)) for photo in photos}
    assert shapes == {(96, 96), (64, 96)}  # 64 x 128 becomes 48 x 96, padded to 64 x 96
