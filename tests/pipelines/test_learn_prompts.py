"""The stage that learns prompts: from annotations to a class head, resumable, transferable, mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from tiny_world import write_world

from ovd.clip.prompts.context import PromptContext
from ovd.clip.prompts.pairs import RECORD
from ovd.clip.prompts.tower import PromptTower
from ovd.clip.towers import load_clip, save_described
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest
from ovd.stores.shards import Regions, RegionStore
from pipelines.cli import run_stage

BASE, NOVEL = ["red box", "green_box", "blue box (small)"], ["yellow box", "red disc"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
CONFIG = """
data_root = {root!r}
split, train_ann, train_prefix = 'annotations/split.json', 'annotations/train.json', 'train'
proposal_store_train, region_store = 'proposals/train', 'regions/train'
class_head = 'class_heads/detpro.safetensors'
regions = dict(pretrained={clip!r}, recipe=dict(kind='clip', scales=(1.0, 1.5)), top_k=None, images_per_shard=3)
prompts = dict(ground_truth_store='regions/truth', epochs=2, batch_size=16, lr=0.1, temperature=0.1,
               ranges=((0.5, 0.8), (0.8, 1.1)), negatives_kept=1)
"""


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory):
    torch.manual_seed(0)
    clip = open_clip.CLIP(**CLIP)
    for parameter in clip.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("clip") / "tiny_clip.safetensors"
    save_described(path, clip, CLIP, None, {})
    return str(path)


@pytest.fixture(scope="session")
def data(tmp_path_factory, clip_file):
    """Pictures, proposals around their objects, and the embeddings of both; with ``config.py``."""
    root = write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)
    file = json.loads((root / "annotations" / "train.json").read_text())
    file["annotations"][0]["iscrowd"] = 1
    file["annotations"][1]["category_id"] = len(BASE)  # a novel object that was left in
    (root / "annotations" / "train.json").write_text(json.dumps(file))
    writer = RegionStore.create(root / "proposals" / "train", "proposals", [image["id"] for image in file["images"]])
    rng, contents = np.random.default_rng(0), {}
    for image in file["images"]:
        corners = np.array([a["bbox"] for a in file["annotations"] if a["image_id"] == image["id"]], np.float32)
        corners[:, 2:] += corners[:, :2]
        moved = np.concatenate([corners + rng.normal(0, spread, corners.shape) for spread in (0.5, 2, 4)])
        contents[image["id"]] = Regions(moved.astype(np.float32), np.ones(len(moved), np.float32))
    writer.write(0, contents)
    writer.finish("proposals", {}, {})
    (root / "config.py").write_text(CONFIG.format(root=str(root), clip=clip_file))
    config = str(root / "config.py")
    assert run_stage("proposals", [config, "--from-annotations", "--subset", "train", "--out",
                                   str(root / "proposals" / "truth")]) == 0
    for store in ("train", "truth"):
        assert run_stage("embed-regions", [config, "--proposals", str(root / "proposals" / store), "--out",
                                           str(root / "regions" / store), "--processes", "1", "--device", "cpu"]) == 0
    return root


@pytest.fixture
def learn(data, tmp_path, capsys):
    """Run the stage; returns exit status, output, error line. The head is ``tmp_path / "head.safetensors"``."""
    def run(*arguments, config=True, out=tmp_path / "head.safetensors"):
        words = [str(data / "config.py")] if config else []
        status = run_stage("learn-prompts", [*words, "--device", "cpu", "--out", str(out), *map(str, arguments)])
        output = capsys.readouterr()
        return status, output.out, output.err.strip().splitlines()[-1] if output.err else ""

    return run


def test_annotated_boxes_are_a_store_without_crowds(data, capsys):
    file = json.loads((data / "annotations" / "train.json").read_text())
    store = RegionStore(data / "proposals" / "truth")
    for image in file["images"]:
        wanted = [[a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]]
                  for a in file["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        assert store[image["id"]].boxes.tolist() == wanted and (store[image["id"]].scores == 1).all()
    config = str(data / "config.py")
    out = ["--subset", "train", "--out", str(data / "proposals" / "truth")]
    assert run_stage("proposals", [config, "--from-annotations", *out]) == 0
    assert "up to date" in capsys.readouterr().out
    for words in (["--from-annotations", "--subset", "train"], ["--from-annotations", "--out", "x"],
                  ["--from-annotations", *out, "--order", "json"], ["rpn.pth", "--from-annotations", *out]):
        assert run_stage("proposals", [config, *words]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_annotations_without_an_object_leave_no_store(data, tmp_path, capsys):
    file = json.loads((data / "annotations" / "train.json").read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**file, "annotations": []}))
    words = ["--from-annotations", "--subset", "train", "--out", str(tmp_path / "store"), "--cfg-options",
             f"train_ann={tmp_path / 'empty.json'}"]
    for _ in range(2):  # the second run does not take what the first has left for a store
        assert run_stage("proposals", [str(data / "config.py"), *words]) == 2
        assert "has no object" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_head_of_all_classes_is_learned_from_base_annotations(learn, data, tmp_path, clip_file):
    status, out, error = learn()
    assert status == 0, error
    head = ClassHead.load(tmp_path / "head.safetensors")
    clip = load_clip(clip_file)
    assert head.names == (*BASE, *NOVEL) and head.stats["clip"] == clip.fingerprint
    assert head.scale == pytest.approx(clip.logit_scale)
    objects = [a for a in json.loads((data / "annotations" / "train.json").read_text())["annotations"]
               if not a["iscrowd"] and a["category_id"] < len(BASE)]
    pairs = np.fromfile(tmp_path / "head" / "pairs.bin", RECORD)
    assert pairs["truth"].sum() == len(objects) and set(pairs["label"]) <= {-1, 0, 1, 2}
    assert f"{len(objects)} of {len(objects)} base objects" in out
    contexts = [PromptContext.load(tmp_path / "head" / f"context_{iou}.safetensors") for iou in ("0.5-0.8", "0.8-1.1")]
    assert contexts[0].vectors_KW.shape == (8, 16) and not torch.equal(contexts[0].vectors_KW, contexts[1].vectors_KW)
    tower = PromptTower(clip)
    rows = 0
    for context in contexts:  # the ensemble: unit length each, sum, unit length
        raw = tower(tower.sentences(head.names, 8), context.vectors_KW)
        rows = rows + raw / raw.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head.weights[:, 0], rows / rows.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    counts = Manifest.read(tmp_path / "head" / "context_0.5-0.8.safetensors").counts
    assert counts["losses"][-1] < counts["losses"][0]


def test_an_interrupted_run_goes_on_to_the_same_bytes(learn, tmp_path):
    files = ["head.safetensors", "head/context_0.5-0.8.safetensors", "head/context_0.8-1.1.safetensors"]
    assert learn()[0] == 0
    first = {name: (tmp_path / name).read_bytes() for name in files}
    for name in (files[0], files[2]):
        (tmp_path / name).unlink()
    status, out, _ = learn()
    assert status == 0 and "0.5-0.8.safetensors is up to date" in out and "0.8-1.1.safetensors is up to" not in out
    assert {name: (tmp_path / name).read_bytes() for name in files} == first
    assert "head.safetensors is up to date" in learn()[1]
    status, _, error = learn("--seed", 1)
    assert status == 2 and "seed was 0, now 1" in error and "--overwrite" in error
    assert learn("--seed", 1, "--overwrite")[0] == 0
    assert (tmp_path / files[1]).read_bytes() != first[files[1]]


def test_a_folder_holds_one_ensemble_and_its_head_is_looked_at_before_the_work(learn, tmp_path):
    assert learn("--ranges", "0.5-0.8", "--epochs", 1)[0] == 0
    status, _, error = learn("--epochs", 1)  # the config's ranges: one more
    assert status == 2 and "head.safetensors: exists but was made" in error and "to learn anew" in error, error
    assert not (tmp_path / "head" / "context_0.8-1.1.safetensors").exists()
    words = ["--ranges", "0.5-1.1", "--epochs", 1, "--contexts", tmp_path / "head"]
    status, _, error = learn(*words, out=tmp_path / "other.safetensors")
    assert status == 2 and "context_0.5-0.8.safetensors: was learned for another range" in error, error
    assert learn(*words, "--overwrite", out=tmp_path / "other.safetensors")[0] == 0
    assert [path.name for path in sorted((tmp_path / "head").glob("context_*"))] == [
        "context_0.5-1.1.safetensors", "context_0.5-1.1.safetensors.manifest.json"]


@pytest.mark.parametrize("mode", ["hinge", "mean", "meanbg", "max", "learn", "fg_only"])
def test_every_mode_learns(learn, tmp_path, mode):
    status, out, error = learn("--mode", mode, "--ranges", "0.5-1.1", "--position", "middle", "--context", 4,
                               "--holdout", 0.3, "--epochs", 1)
    assert status == 0, error
    context = PromptContext.load(tmp_path / "head" / "context_0.5-1.1.safetensors")
    assert context.vectors_KW.shape == (4, 16) and context.position == "middle"
    assert (context.background_KW is not None) == (mode == "learn")
    assert "held-out base accuracy" in out


def test_contexts_are_applied_to_other_names(learn, tmp_path, clip_file):
    assert learn()[0] == 0
    (tmp_path / "names.txt").write_text("wooden crate\nred box\n")
    out = tmp_path / "other.safetensors"
    words = ["--apply", tmp_path / "head", "--names", tmp_path / "names.txt", "--pretrained", clip_file]
    status, _, error = learn(*words, config=False, out=out)
    assert status == 0, error
    head, learned = ClassHead.load(out), ClassHead.load(tmp_path / "head.safetensors")
    assert head.names == ("wooden crate", "red box")
    assert torch.equal(head.weights[1], learned.weights[0])  # a row does not depend on the other classes
    status, _, error = learn("--apply", tmp_path / "head", "--dataset", "voc", out=tmp_path / "voc.safetensors")
    assert status == 0 and len(ClassHead.load(tmp_path / "voc.safetensors")) == 20
    vectors = PromptContext.load(tmp_path / "head" / "context_0.5-0.8.safetensors").vectors_KW
    torch.save(vectors, tmp_path / "pos5_prompt.pth")  # as published files are
    words = ["--apply", tmp_path / "pos5_prompt.pth", "--names", tmp_path / "names.txt"]
    assert learn(*words, out=tmp_path / "published.safetensors")[0] == 0
    for wrong, message in (
            (["--apply", tmp_path / "head"], "which classes"),
            (["--apply", tmp_path, "--dataset", "voc"], "no learned contexts"),
            (["--apply", tmp_path / "names.txt", "--dataset", "voc"], "not a file of learned prompts"),
            ([*words, "--pretrained", "shapes"], "of width 16"),
            (["--apply", tmp_path / "head", "--dataset", "voc", "--pretrained", "shapes"], "context of the CLIP")):
        status, _, error = learn(*wrong, out=tmp_path / "wrong.safetensors")
        assert status == 2 and message in error, error


@pytest.mark.parametrize(("words", "message"), [
    (["--mode", "sof"], "did you mean soft"), (["--position", "start"], "end, middle, front"),
    (["--ranges", "0.2-0.4"], "begins at 0.5"), (["--epochs", "0"], "1 or more"), (["--lr", "0"], "prompts.lr"),
    (["--ranges", "1.05-1.1"], "no training pairs"), (["--names", "x.txt"], "belong to --apply"),
    (["--ground-truth", "nowhere"], "ovd learn-prompts --help"), (["--pretrained", "shapes"], "another 'clip'"),
    (["--cfg-options", "+prompts.epoch=3"], "did you mean epochs"), (["--lr", "1e38"], "lower --lr")])
def test_mistakes_are_told_in_one_line(learn, words, message):
    status, _, error = learn(*words)
    assert status == 2 and error.startswith("error: ") and message in error, error


def test_the_command_line_learns(data, tmp_path):
    command = [sys.executable, str(Path(__file__).resolve().parents[2] / "tools" / "learn_prompts.py"),
               str(data / "config.py"), "--out", str(tmp_path / "head.safetensors"), "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 contexts of 8 vectors for 3 base and 2 novel classes" in done.stdout
