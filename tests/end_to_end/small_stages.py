"""The offline stages on a few small scenes: their real commands and configs, about a second each, many files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crashing import Launcher, contents

TRAIN, VAL, SIDE = 20, 6, 96  # scenes, and their size in pixels
SHARD = 2  # images

RPN, VILD, DETPRO = (f"configs/shapes/{name}.py" for name in ("rpn", "vild", "detpro"))


@dataclass(frozen=True)
class Stage:
    """A command and what it writes.

    Attributes:
        outputs: Name below the world's folder -> digest, of a run that nothing stopped.
        seconds: How long that run took.
    """

    argv: tuple[str, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def commands(world: Path) -> dict[str, tuple[str, ...]]:
    """The stages by name, in the order in which they need each other, below the folder ``world``."""
    data, rendered = world / "data", world / "rendered"
    on = ("--data-root", data)
    proposals = ("proposals", RPN, world / "rpn" / "final.pth", *on, "--processes", 1, "--recall-images", 0)
    few = ("--cfg-options", f"+proposals.images_per_shard={SHARD}", "proposals.max_per_image=8",
           f"image_size=({SIDE},{SIDE})")
    embed = ("embed-regions", VILD, *on, "--processes", 1)
    shards = ("--cfg-options", f"regions.images_per_shard={SHARD}", "regions.top_k=4")
    regions = data / "regions"
    found = {
        "scenes": _shapes(data, 1),
        "shapes": _shapes(rendered, 1),
        "build-zsl": ("build-zsl", "--split", data / "annotations" / "split.json", "--train-ann",
                      "instances_train.json", "--val-ann", "instances_val.json"),
        "rpn": ("train", RPN, *on, "--work-dir", world / "rpn", "--cfg-options", "train_cfg.max_iters=1",
                f"image_size=({SIDE},{SIDE})"),
        "proposals": (*proposals, *few),
        "proposals-from-annotations": ("proposals", DETPRO, "--from-annotations", "--subset", "train", "--out",
                                       data / "proposals" / "ground_truth", *on, "--cfg-options",
                                       f"+proposals.images_per_shard={SHARD}"),
        "class-embeddings": ("class-embeddings", "--config", VILD, *on, "--templates", "a photo of {article} {}.",
                             "a drawing of {article} {}.", "--export", world / "vild.pth"),
        "embed-regions": (*embed, *shards),
        "embed-globals": (*embed, "--what", "globals", *shards, "+global_store=globals/train"),
        "embed-int8": (*embed, "--out", regions / "int8", "--rows", "int8", *shards),
        "embed-ground-truth": (*embed, "--proposals", data / "proposals" / "ground_truth", "--out",
                               regions / "ground_truth", *shards[:2], "regions.top_k=none"),
        "learn-prompts": ("learn-prompts", DETPRO, *on, "--epochs", 1, "--batch-size", 64, "--ranges", "0.5-0.6",
                          "0.6-1"),
        "embed-val": (*embed, "--subset", "val", *shards),
        "merge": ("store", "merge", regions / "train", regions / "val", "--out", regions / "all",
                  "--images-per-shard", 3),
        "export": ("store", "export", regions / "train", "--layout", "detpro", "--out", world / "detpro"),
        "export-oadp": ("store", "export", regions / "train", "--layout", "oadp", "--out", world / "oadp"),
        "import": ("store", "import", world / "oadp", "--layout", "oadp", "--annotations",
                   data / "annotations" / "instances_train_shapes.json", "--out", regions / "imported",
                   "--images-per-shard", SHARD),
        "build-index": ("build-index", VILD, *on, "--kind", "ivf", "--recall", 0.5),
        "clip-on-crops": ("clip-on-crops", VILD, *on, "--work-dir", world / "crops", "--out",
                          world / "crops" / "detections.json"),
    }
    return {name: tuple(map(str, argv)) for name, argv in found.items()}


def _shapes(folder: Path, workers: int) -> tuple:
    return ("shapes", "--data-root", folder, "--train", TRAIN, "--val", VAL, "--size", SIDE, "--workers", workers)


def run_all(world: Path, launcher: Launcher) -> dict[str, Stage]:
    """Run every stage once, uninterrupted."""
    stages, before = {}, {}
    for name, argv in commands(world).items():
        ended = launcher.succeed(argv)
        after = contents(world)
        assert before.items() <= after.items(), f"{name} changed what it was given"
        stages[name] = Stage(argv, dict(after.items() - before.items()), ended.seconds)
        before = after
    return stages
