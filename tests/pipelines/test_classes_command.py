"""Classes of one's own by the command: words, boxes and both; the others to the bit; one line for each mistake."""

import json
import re
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from ovd.clip.text import class_embeddings
from ovd.clip.towers import load_clip, save_described
from ovd.engine.preflight import check_class_heads
from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry, load_classes
from ovd.stores.manifest import Manifest
from ovd.vocabulary.prompts import STYLES
from ovd.vocabulary.splits import Split
from pipelines.classes import read_settings
from pipelines.classes.adding import add_classes
from pipelines.classes.origins import Origin
from pipelines.classes.plotting import plane, spread
from pipelines.classes.showing import directions
from pipelines.cli import main

CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
CSV = "image,x1,y1,x2,y2\na.png,0,0,20,20\nb.png,5,5,50,30\na.png,30,10,59,39\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two CLIPs, two images, and boxes of them."""
    root = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("clip", "other")):
        torch.manual_seed(seed)
        save_described(root / f"{name}.safetensors", open_clip.CLIP(**CLIP), CLIP, None, {})
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(root / "images" / name)
    (root / "images" / "boxes.csv").write_text(CSV)
    contents = {"images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
                "annotations": [{"id": i, "image_id": 1, "category_id": i, "bbox": [i, 2, 20, 30], "area": 600}
                                for i in (1, 2)],
                "categories": [{"id": 1, "name": "knob"}, {"id": 2, "name": "handle"}],
                "info": {"image_folder": "images"}}
    (root / "boxes.json").write_text(json.dumps(contents))
    return root


@pytest.fixture
def registry(world, tmp_path):
    """A registry with two classes by name."""
    path = tmp_path / "classes"
    add_classes(["red star", "zebra"], path, pretrained=str(world / "clip.safetensors"), device="cpu")
    return path


@pytest.fixture
def run(world, registry, capsys):
    """``ovd classes ...``: status, what it printed, and its error."""
    def call(command: str, *words: str):
        capsys.readouterr()
        status = main(["classes", command, *words, "--registry", str(registry)])
        found = capsys.readouterr()
        return status, found.out, found.err
    return call


def boxes_of(world) -> list[str]:
    return ["--boxes", str(world / "images/boxes.csv"), "--device", "cpu"]


def regions(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(3))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def test_the_command_adds_and_lists_classes_without_the_detectors_library(world, tmp_path, root):
    command = [sys.executable, "-X", "importtime", root / "tools/classes.py", "add", "knob", "--text", "a red knob",
               "--boxes", world / "boxes.json", "--images", world / "images", "--pretrained",
               world / "clip.safetensors", "--registry", tmp_path / "classes", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "knob: text + 1 box\n" in done.stdout and "1 class, width 12" in done.stdout
    assert "mmdet" not in done.stderr and "mmengine" not in done.stderr  # which take seconds to load
    assert ClassRegistry(tmp_path / "classes").names == ("knob",)


def test_a_name_alone_is_its_text_in_the_prompt_templates(world, registry):
    clip = load_clip(str(world / "clip.safetensors"))
    expected = class_embeddings(clip, ["red star", "zebra"], STYLES["vild"])
    head = load_classes(registry)
    assert torch.equal(head.weights, expected.weights) and head.scale == expected.scale
    assert head.stats["clip"] == clip.fingerprint


def test_other_words_take_the_place_of_the_name(world, registry, run):
    assert run("add", "gizmo", "--text", "a red knob", "big knob", "--device", "cpu")[0] == 0
    clip = load_clip(str(world / "clip.safetensors"))
    expected = class_embeddings(clip, ["gizmo"], STYLES["vild"], synonyms={"gizmo": ["red knob", "big knob"]})
    gizmo = ClassRegistry(registry).get("gizmo")
    assert torch.equal(gizmo.weights, expected.weights)
    assert gizmo.provenance[0]["text"] == ["red knob", "big knob"]


def test_boxes_alone_do_not_hear_the_name(world, registry, run):
    run("add", "thingamajig", *boxes_of(world))
    run("add", "whatsit", *boxes_of(world))
    run("add", "two", *boxes_of(world), "--shots", "2")
    one, same, fewer = (ClassRegistry(registry).get(name) for name in ("thingamajig", "whatsit", "two"))
    assert torch.equal(one.weights, same.weights) and not torch.equal(one.weights, fewer.weights)
    assert [len(head.provenance[0]["boxes"]) for head in (one, fewer)] == [3, 2]
    assert Origin.of(one.provenance[0]) == Origin(("boxes",), 3)


def test_words_and_boxes_are_blended_by_the_rule(world, registry, run):
    clip = load_clip(str(world / "clip.safetensors"))
    text = class_embeddings(clip, ["knob"], STYLES["vild"]).weights[0, 0].double()
    run("add", "boxes", *boxes_of(world))
    boxes = ClassRegistry(registry).get("boxes").weights[0, 0].double()
    boxes = boxes / boxes.norm()
    for name, options, lam in (("half", ["--lam", "0.5"], 0.5), ("by number", ["--kappa", "2"], 3 / 5)):
        assert run("add", name, *boxes_of(world), "--text", "knob", *options)[0] == 0
        blend = (1 - lam) * text + lam * boxes
        row = ClassRegistry(registry).get(name).weights[0, 0].double()
        assert torch.allclose(row / row.norm(), blend / blend.norm(), atol=1e-6)
    run("add", "either", *boxes_of(world), "--text", "knob", "--rule", "max")
    x = regions()
    expected = clip.logit_scale * torch.maximum(x.double() @ text, x.double() @ boxes) / x.double().norm(dim=1)
    assert torch.allclose(ClassRegistry(registry).get("either").logits(x)[:, 0].double(), expected, atol=1e-4)


def test_adding_and_removing_through_files_leaves_every_other_logit_bit_identical(world, registry, run):
    x = regions()
    before = load_classes(registry).logits(x)
    for words in (["boxed", *boxes_of(world)], ["cached", *boxes_of(world), "--text", "--method", "tip"],
                  ["fitted", *boxes_of(world), "--method", "cosine", "--settings", "iterations=3"],
                  ["listed", *boxes_of(world), "--method", "matching"], ["words", "--text", "a green drop"],
                  ["either", *boxes_of(world), "--text", "--rule", "max"]):
        status, _, error = run("add", *words)
        assert status == 0, error
        assert same_bits(load_classes(registry).logits(x)[:, :2], before), words
    whole = load_classes(registry)
    assert run("remove", "red star", "fitted")[0] == 0
    kept = [row for row, name in enumerate(whole.names) if name not in ("red star", "fitted")]
    assert same_bits(load_classes(registry).logits(x), whole.logits(x)[:, kept])


def test_a_detector_takes_the_folder_and_finds_the_classes_of_its_split(registry, run):
    split = Split("mine", "custom", base=("zebra",), novel=("red star",))
    classifier = CosineClassifier(str(registry), split)
    assert classifier.names == ("zebra", "red star") and classifier.is_base.tolist() == [True, False]
    check_class_heads({"classifier": {"class_head": str(registry), "embed_dim": 12}})
    run("remove", "zebra")
    with pytest.raises(UserError, match="has no class 'zebra'"):
        CosineClassifier(str(registry), split)


def test_classes_of_a_head_file_by_name(world, registry, run, tmp_path):
    clip = load_clip(str(world / "clip.safetensors"))
    head = class_embeddings(clip, ["apple", "pear", "fig"], STYLES["vild"])
    head.save(tmp_path / "head.safetensors")
    assert run("add", "--from", str(tmp_path / "head.safetensors"), "fig", "apple")[0] == 0
    assert ClassRegistry(registry).names == ("red star", "zebra", "fig", "apple")
    status, _, error = run("add", "--from", str(tmp_path / "head.safetensors"), "figs")
    assert status == 2 and "head.safetensors: class head has no class 'figs'; did you mean fig" in error
    assert run("add", "--from", str(tmp_path / "head.safetensors"), "--replace")[0] == 0
    assert ClassRegistry(registry).names == ("red star", "zebra", "fig", "apple", "pear")


def test_rows_of_a_trained_checkpoint_are_a_registry_of_their_own(registry, tmp_path, run):
    weights = torch.randn(3, 12, generator=torch.Generator().manual_seed(5))
    bias = torch.tensor([1.0, 2.0, 3.0])
    state = {"bbox_head.cls_logits.weight": weights[..., None, None], "bbox_head.cls_logits.bias": bias}
    torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": ("cat", "dog", "cow")}}}, tmp_path / "c.pth")
    add_classes(["cow", "cat"], tmp_path / "rows", source=tmp_path / "c.pth")
    head = load_classes(tmp_path / "rows")
    x = regions()
    assert head.names == ("cow", "cat") and Origin.of(head.provenance[0]).sources == ("checkpoint",)
    assert torch.allclose(head.logits(x), (x @ weights.T + bias)[:, [2, 0]], atol=1e-5)
    assert "does not go beside" in run("add", "--from", str(tmp_path / "c.pth"))[2]


def test_all_classes_of_a_boxes_file_and_its_folder_of_images(world, registry, tmp_path):
    add_classes([], registry, boxes=world / "boxes.json", images=world / "images", device="cpu")
    assert ClassRegistry(registry).names == ("red star", "zebra", "knob", "handle")
    config = tmp_path / "config.py"
    config.write_text(f"data_root = {str(world)!r}\nregions = dict(pretrained={str(world / 'clip.safetensors')!r}, "
                      "recipe=dict(kind='square', scales=(1.0,)))\n")
    other = tmp_path / "other"
    add_classes(["gizmo"], other, boxes=world / "boxes.json", boxes_class="handle", config=config, device="cpu")
    gizmo = ClassRegistry(other).get("gizmo").provenance[0]
    assert gizmo["boxes"] == [["a.png", 2, 2, 22, 32]] and gizmo["recipe"]["kind"] == "square"
    assert ClassRegistry(other).settings["recipe"]["kind"] == "square"


def test_list_and_show_say_where_a_class_comes_from(world, registry, run):
    run("add", "gizmo", *boxes_of(world), "--text", "a red knob")
    _, out, _ = run("list")
    assert "gizmo" in out and "text + boxes  3" in out and "3 classes, width 12" in out
    _, out, _ = run("show", "Gizmo")
    head = ClassRegistry(registry).get("gizmo")
    for said in ("gizmo: text + 3 boxes", "red knob", "a.png, 0, 0, 20, 20", "boxes_hash: sha256:", "rule: weights",
                 "file: boxes.csv", head.stats["clip"]):
        assert said in out, said
    rows = directions(load_classes(registry)).double()
    nearest = max(("red star", "zebra"), key=lambda name: float(rows[2] @ rows[("red star", "zebra").index(name)]))
    assert out.index(nearest) < out.index({"red star": "zebra", "zebra": "red star"}[nearest])


def test_export_writes_one_file_that_gives_the_same_logits(registry, run, tmp_path):
    assert run("export", str(tmp_path / "all.safetensors"))[0] == 0
    assert same_bits(ClassHead.load(tmp_path / "all.safetensors").logits(regions()),
                     load_classes(registry).logits(regions()))
    assert run("export", str(tmp_path / "one.pth"), "zebra")[0] == 0
    exported = torch.load(tmp_path / "one.pth", weights_only=True)
    assert exported["names"] == ["zebra"] and exported["embeddings"].shape == (1, 12)
    assert "write a .safetensors or a .pth" in run("export", str(tmp_path / "x.npy"))[2]
    assert "has no class 'zebr'" in run("export", str(tmp_path / "x.pth"), "zebr")[2]


def test_labels_of_near_classes_lie_beside_each_other():
    figure = Figure(figsize=(8, 6))
    axes = figure.add_subplot()
    FigureCanvasAgg(figure)
    labels = [axes.annotate(f"a long class name {number}", (0.5 + number / 800, 0.5 + number % 3 / 100), fontsize=8,
                            textcoords="offset points", xytext=(5, 3)) for number in range(10)]
    figure.draw_without_rendering()
    spread(labels, figure)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.count_overlaps(boxes[:number]) for number, one in enumerate(boxes))


def test_the_picture_shows_the_plane_of_the_largest_variance(registry, run, tmp_path):
    assert "a plane needs three or more" in run("plot", str(tmp_path / "few.png"))[2]
    run("add", "apple", "pear $", "--device", "cpu")
    assert run("plot", str(tmp_path / "plot.png"))[0] == 0
    assert Image.open(tmp_path / "plot.png").width > 500
    first = (tmp_path / "plot.png").read_bytes()
    run("plot", str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes() == first
    assert "1 class left" in run("remove", *load_classes(registry).names[1:])[1]
    rows = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1]
    points, shares = plane(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    assert np.allclose(np.abs(points), np.abs((rows - rows.mean(0)) @ vectors[:, :-3:-1]))
    assert np.allclose(shares[:2], values[:-3:-1] / values.sum())


def test_an_untrained_clip_marks_the_registry(tmp_path):
    with pytest.raises(UserError, match="--allow-untrained"):
        add_classes(["apple"], tmp_path / "c", pretrained="untrained:RN50", device="cpu")
    assert not (tmp_path / "c").exists()


def test_marks_of_a_file_go_with_its_classes(tmp_path, registry):
    load_classes(registry).save(tmp_path / "head.safetensors", flags={"untrained": True})
    add_classes([], tmp_path / "marked", source=tmp_path / "head.safetensors")
    assert Manifest.read(tmp_path / "marked").flags == {"untrained": True}


@pytest.mark.parametrize(("words", "message"), [
    ([], "no class is named"),
    (["zebra"], "has a class 'zebra' already; pass --replace"),
    (["Red_Star"], "another spelling of 'Red_Star'"),
    (["new", "New"], "are one name"),
    (["new", "newer", "--text", "a knob"], "--text: is of one class"),
    (["new", "--text", " "], "--text: empty words"),
    (["new", "--shots", "3"], "--shots: there are no boxes"),
    (["new", "--boxes-class", "knob"], "--boxes-class: there are no boxes"),
    (["new", "--pretrained", "OTHER"], "does not go beside its class 'red star'.*different CLIPs"),
    (["new", "--from", "WORLD/nowhere.safetensors"], "nowhere.safetensors: no such file"),
    (["new", "--from", "WORLD/boxes.json"], "boxes.json: is not a class head file"),
    (["new", "--from", "x", "--text", "a"], "leave --text and --boxes out"),
    (["new", "--boxes", "WORLD/boxes.json"], "boxes.json: has no boxes of a class 'new'"),
    (["knob", "--boxes", "WORLD/boxes.json"], r"a.png: no such image, which boxes.json names; .*\(--images DIR\)"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--shots", "2"],
     "has 1 boxes of 'knob', 2 are asked for; pass a smaller --shots"),
    (["knob", "--boxes", "WORLD/boxes.json", "--shots", "0"], "--shots 0: needs one or more"),
    (["knob", "--boxes", "WORLD/outside.csv"],
     r"a.png: shot 1 of 'knob' in outside.csv: the box .* is outside the image of 60 x 40"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--lam", "2"], "--lam 2: needs a number"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--kappa", "0"], "--kappa 0: needs a number"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--method", "prototpe"],
     "unknown method 'prototpe'.*did you mean prototype"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--settings", "x"], "is not KEY=VALUE"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--settings", "base=3"], "needs a number"),
    (["knob", "--boxes", "WORLD/boxes.json", "--images", "WORLD/images", "--settings", "norm=euclid"],
     "does not go beside its class 'red star'.*euclid"),
    (["new", "--cfg-options", "a=1"], "there is no config"),
    (["new", "--style", "vldi"], "no prompt style 'vldi'"),
])
def test_a_mistake_is_one_line_and_adds_nothing(world, registry, run, words, message):
    (world / "outside.csv").write_text("image,x1,y1,x2,y2\na.png,30,20,80,39\n")
    Image.open(world / "images/a.png").save(world / "a.png") if "outside" in message else None
    before = sorted((file.name, file.read_bytes()) for file in registry.iterdir())
    filled = [word.replace("WORLD", str(world)).replace("OTHER", str(world / "other.safetensors")) for word in words]
    status, _, error = run("add", *filled)
    (world / "a.png").unlink(missing_ok=True)
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert sorted((file.name, file.read_bytes()) for file in registry.iterdir()) == before


@pytest.mark.parametrize("words", [["list"], ["export", "x.safetensors"], ["plot", "x.png"]])
def test_an_empty_registry_is_one_line(tmp_path, capsys, words):
    assert main(["classes", *words, "--registry", str(tmp_path / "none")]) == 2
    assert "a registry without classes; add one with ovd classes add" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_unknown_classes_are_named_with_the_nearest(run):
    for command in ("show", "remove"):
        status, _, error = run(command, "zebr")
        assert status == 2 and "has no class 'zebr'; did you mean zebra" in error


def test_the_first_addition_must_name_a_clip(tmp_path):
    with pytest.raises(UserError, match="no CLIP is known yet; name it with --config CONFIG, or with --pretrained"):
        add_classes(["apple"], tmp_path / "classes")


def test_a_damaged_file_to_take_classes_from_is_refused(registry, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights.safetensors: is not a class head file"):
        add_classes([], registry, source=tmp_path / "weights.safetensors")


def test_settings_are_numbers_where_they_look_so():
    assert read_settings(["beta=5.5", "iterations=10", "norm=cosine"]) == \
        {"beta": 5.5, "iterations": 10, "norm": "cosine"}
    assert isinstance(read_settings(["iterations=10"])["iterations"], int)
