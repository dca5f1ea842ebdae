"""The stage that embeds class names: files, defaults, imports and mistakes, through its command line."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from tiny_world import write_world

from ovd.clip.towers import load_clip, save_described
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest
from ovd.vocabulary.classes import COCO_NAMES, LVIS_NAMES
from ovd.vocabulary.splits import get_split
from pipelines.cli import run_stage

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "tiny clip.safetensors"
    save_described(path, open_clip.CLIP(**CLIP), CLIP, None, {})
    return str(path)


@pytest.fixture
def command(tmp_path, clip_file, capsys, monkeypatch):
    """Run the stage in an empty folder with the tiny CLIP; returns exit status, output and error line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, clip=True):
        status = run_stage("class-embeddings", [*map(str, arguments), "--device", "cpu",
                                                *(["--pretrained", clip_file] if clip else [])])
        output = capsys.readouterr()
        return status, output.out, output.err.strip().splitlines()[-1] if output.err else ""

    return run


def test_default_is_vild_prompts_of_coco_into_the_datas_folder(command, clip_file):
    status, out, _ = command("vild", "--templates", "single")
    assert status == 0
    head = ClassHead.load("data/coco/class_heads/vild-custom_tiny-clip.safetensors")
    assert head.names == COCO_NAMES
    assert head.stats["clip"] == load_clip(clip_file).fingerprint
    assert "80 classes of 80 texts, width 16" in out


def test_the_styles_differ_in_templates(command):
    Path("names.txt").write_text("cat\nice cream\n")
    for style, count in [("vild", 63), ("detpro", 74), ("vild74", 74), ("oadp", 74), ("single", 1)]:
        status, out, _ = command(style, "--names", "names.txt", "--out", f"{style}.safetensors")
        assert status == 0 and f"2 classes of {2 * count} texts" in out
        assert len(Manifest.read(f"{style}.safetensors").config["prompts"]["templates"]) == count
    same = [ClassHead.load(f"{style}.safetensors").weights for style in ("detpro", "vild74")]
    assert torch.equal(*same)
    assert ClassHead.load("oadp.safetensors").norm == "linear"


def test_a_split_has_its_classes_in_label_order(command):
    assert command("single", "--dataset", "48_17", "--data-root", "here")[0] == 0
    head = ClassHead.load("here/class_heads/single_tiny-clip.safetensors")
    assert head.names == get_split("48_17").classes


def test_a_current_file_is_left_alone_and_another_needs_overwrite(command):
    out = ["--names", "names.txt", "--out", "head.safetensors"]
    Path("names.txt").write_text("cat\ndog\n")
    command("single", *out)
    before = Path("head.safetensors").read_bytes()
    assert "up to date" in command("single", *out)[1]
    status, _, error = command("detpro", *out)
    assert status == 2 and "prompts.articles was true" in error and "--overwrite" in error
    assert Path("head.safetensors").read_bytes() == before
    assert command("detpro", *out, "--overwrite")[0] == 0
    command("single", *out, "--overwrite")
    assert Path("head.safetensors").read_bytes() == before


def test_lvis_synonyms_enter_the_mean(command):
    split = {"base": ["ax"], "novel": ["speaker_(stereo_equipment)"], "dataset": "lvis_v1"}
    Path("mine.json").write_text(json.dumps(split))
    status, out, _ = command("single", "--dataset", "mine.json", "--synonyms", "--out", "head.safetensors")
    assert status == 0 and "2 classes of 3 texts" in out  # ax and axe; the other has one
    head = ClassHead.load("head.safetensors")
    assert head.provenance[0]["synonyms"] == ["ax", "axe"]


def test_synonyms_of_a_config_come_from_its_annotation_file(command, tmp_path):
    root = write_world(tmp_path / "world", ["red box"], ["blue box"], train=2, val=2,
                       frequencies={"red box": "f", "blue box": "r"})
    data = json.loads((root / "annotations" / "val.json").read_text())
    data["categories"][1]["synonyms"] = ["blue box", "azure box"]
    (root / "annotations" / "val.json").write_text(json.dumps(data))
    (root / "config.py").write_text(
        f"data_root = {str(root)!r}\nsplit = 'annotations/split.json'\nval_ann = 'annotations/val.json'\n"
        "class_head = 'class_heads/mine.safetensors'\nregions = dict(pretrained='nothing')\n")
    assert command("single", "--config", root / "config.py", "--synonyms")[0] == 0
    head = ClassHead.load(root / "class_heads" / "mine.safetensors")
    assert head.names == ("red box", "blue box")
    assert head.provenance[1]["synonyms"] == ["blue box", "azure box"]


def test_a_config_says_which_clip(command, tmp_path, clip_file):
    (tmp_path / "split.json").write_text(json.dumps({"base": ["cat"]}))
    (tmp_path / "config.py").write_text(
        f"data_root = {str(tmp_path)!r}\nsplit = 'split.json'\nclass_head = 'head.safetensors'\n"
        f"regions = dict(pretrained={clip_file!r})\n")
    assert command("single", "--config", tmp_path / "config.py", clip=False)[0] == 0
    assert ClassHead.load(tmp_path / "head.safetensors").stats["clip"] == load_clip(clip_file).fingerprint


def test_templates_and_switches_of_ones_own(command):
    Path("names.txt").write_text("bow_(decorative_ribbons)\n")
    Path("templates.txt").write_text("a drawing of {article} {}.\n\nmy {}.\n")
    status, _, _ = command("vild", "--names", "names.txt", "--out", "head.safetensors", "--templates", "templates.txt",
                           "the {}", "--parentheses", "drop", "--no-normalize-texts", "--no-normalize-mean")
    prompts = Manifest.read("head.safetensors").config["prompts"]
    assert status == 0
    assert prompts["templates"] == ["a drawing of {article} {}.", "my {}.", "the {}"]
    assert (prompts["parentheses"], prompts["normalize_texts"], prompts["normalize_mean"]) == ("drop", False, False)


def test_export_is_a_dict_of_embeddings_and_names(command):
    Path("names.txt").write_text("cat\ndog\n")
    assert command("single", "--names", "names.txt", "--out", "head.safetensors", "--export", "vild.pth")[0] == 0
    exported = torch.load("vild.pth", weights_only=True)
    assert exported["names"] == ["cat", "dog"]
    assert torch.equal(exported["embeddings"], ClassHead.load("head.safetensors").weights[:, 0])
    command("--import-matrix", "vild.pth", "--out", "again.safetensors", clip=False)
    assert torch.equal(ClassHead.load("again.safetensors").weights, ClassHead.load("head.safetensors").weights)


@pytest.mark.parametrize("untrained", [True, False])
def test_untrained_needs_permission_and_marks_the_file(command, untrained):
    Path("names.txt").write_text("cat\n")
    arguments = ["single", "--names", "names.txt", "--out", "head.safetensors", "--pretrained", "untrained:RN50"]
    status, _, error = command(*arguments, *(["--allow-untrained"] if untrained else []), clip=False)
    if untrained:
        assert status == 0 and Manifest.read("head.safetensors").flags == {"untrained": True}
    else:
        assert status == 2 and "--allow-untrained" in error


@pytest.mark.parametrize("form", ["tensor", "half, one model", "dict"])
def test_published_detpro_embeddings_are_imported_by_name(command, form):
    """``iou_neg5_ens.pth`` has a row a class of LVIS in its order; OADP's dict spells one name as mmdet does."""
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(1203, 16), dim=1)
    names = [name.replace("stero", "stereo") for name in LVIS_NAMES]
    forms = {"tensor": rows, "half, one model": rows[None].half(), "dict": {"embeddings": rows, "names": names}}
    torch.save(forms[form], "iou_neg5_ens.pth")
    words = [] if form == "dict" else ["--dataset", "lvis_v1"]
    status, out, error = command("detpro", "--import-matrix", "iou_neg5_ens.pth", *words, "--out", "detpro.safetensors")
    assert status == 0, error
    assert "1,203 classes" in out
    head = ClassHead.load("detpro.safetensors")
    split = get_split("866_337")  # base first: another order than the file's
    wanted = rows[[LVIS_NAMES.index(name) for name in split.classes]]
    torch.testing.assert_close(head.select(split.classes).weights[:, 0], wanted, rtol=1e-3, atol=1e-3)
    for spelling in ("stero", "stereo"):
        assert len(head.select([f"speaker_({spelling}_equipment)"])) == 1
    torch.save(torch.randn(1204, 16), "more.pth")  # with a background row
    more = ["--import-matrix", "more.pth", "--dataset", "lvis_v1", "--out", "more.safetensors"]
    status, _, error = command("detpro", *more)
    assert status == 2 and "1204 x 16 for 1203 names" in error


@pytest.mark.parametrize(("matrix", "dataset", "names"), [
    ("detic_coco_clip_a+cname.npy", "coco", COCO_NAMES), ("detic_lvis_v1_clip_a+cname.npy", "lvis_v1", LVIS_NAMES),
    ("detic_coco_clip_a+cname.npy", "65_15", COCO_NAMES),  # rows follow the dataset, not the split's labels
])
def test_real_text_embeddings_are_imported_in_the_datasets_order(command, shared, matrix, dataset, names):
    path = shared / "data" / "clip_text" / matrix
    assert command("--import-matrix", path, "--dataset", dataset, "--out", "head.safetensors", clip=False)[0] == 0
    head = ClassHead.load("head.safetensors")
    assert head.names == names
    np.testing.assert_array_equal(head.weights[:, 0].numpy(), np.load(path).astype(np.float32))


def test_real_text_embeddings_know_which_classes_are_alike(command, shared):
    """A shifted or transposed import would not."""
    path = shared / "data" / "clip_text" / "detic_coco_clip_a+cname.npy"
    command("--import-matrix", path, "--dataset", "coco", "--out", "head.safetensors", clip=False)
    head = ClassHead.load("head.safetensors")
    cosines = torch.nn.functional.normalize(head.weights[:, 0], dim=-1)
    cosines = (cosines @ cosines.T).fill_diagonal_(-1)
    nearest = {name: head.names[int(row.argmax())] for name, row in zip(head.names, cosines)}
    assert nearest["fork"] in ("knife", "spoon") and nearest["bus"] in ("truck", "train")
    assert nearest["tennis racket"] in ("baseball bat", "baseball glove", "sports ball")


@pytest.mark.parametrize(("arguments", "says"), [
    (["vilt"], "no prompt style 'vilt'; did you mean vild"),
    (["vild", "--dataset", "48_71"], "did you mean 48_17"),
    (["vild", "--dataset", "coco", "--synonyms"], "--synonyms: none are known"),
    (["vild", "--names", "none.txt"], "none.txt: cannot read the class names"),
    (["vild", "--names", "empty.txt"], "empty.txt: the list of class names is empty"),
    (["vild", "--names", "twice.txt"], "twice.txt: class name 'cat' is there twice"),
    (["vild", "--names", "good.txt"], "--out FILE or --data-root D"),
    (["vild", "--templates", "photo"], "'photo' is none of vild63"),
    (["vild", "--templates", "a {"], "template"),
    (["vild", "--templates", "{} {x}"], "template '{} {x}'"),
    (["--import-matrix", "rows.npy", "--dataset", "coco"], "one side must be the number of names"),
    (["--import-matrix", "rows.npy", "--names", "good.txt", "--synonyms"], "leave --templates and --synonyms out"),
    (["--import-matrix", "none.npy", "--dataset", "coco"], "none.npy: no such file"),
    (["--import-matrix", "rows.npy", "--names", "good.txt", "--out", "o.safetensors"], "width 7, needed is 16"),
])
def test_mistakes_are_one_line_and_status_2(command, arguments, says):
    Path("empty.txt").touch()
    Path("twice.txt").write_text("cat\ndog\ncat\n")
    Path("good.txt").write_text("cat\ndog\n")
    np.save("rows.npy", np.ones((2, 7), np.float32))
    status, _, error = command(*arguments)
    assert status == 2 and error.startswith("error: ") and says in error


def test_without_a_clip_it_says_how_to_name_one(command):
    status, _, error = command("vild", "--dataset", "coco", clip=False)
    assert status == 2 and "no CLIP is named; pass --pretrained" in error


def test_a_clip_trained_with_sigmoids_leaves_its_scale_and_bias_in_its_class_heads(command, tmp_path):
    """SigLIP: each class is judged by itself, whether its rows are embedded here or imported."""
    config = {**CLIP, "init_logit_bias": -10.0, "init_logit_scale": 2.0}
    save_described(tmp_path / "siglip.safetensors", open_clip.CLIP(**config), config, None, {})
    Path("names.txt").write_text("cat\ndog\n")
    np.save("rows.npy", np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32))
    clip = ("--pretrained", "siglip.safetensors", "--names", "names.txt")
    assert command("single", *clip, "--out", "made.safetensors", clip=False)[0] == 0
    assert command("--import-matrix", "rows.npy", *clip, "--out", "imported.safetensors", clip=False)[0] == 0
    regions = torch.randn(3, 16)
    for path in ("made.safetensors", "imported.safetensors"):
        head = ClassHead.load(path)
        assert head.stats["scores"] == "sigmoid" and head.bias.tolist() == [-10.0, -10.0]
        cosines = torch.nn.functional.cosine_similarity(regions[:, None], head.weights[:, 0], dim=2)
        torch.testing.assert_close(head.probabilities(regions), 1 / (1 + torch.exp(10 - cosines * float(np.exp(2.0)))),
                                   rtol=1e-2, atol=1e-7)  # weights files are in half precision
