"""The offline stages on a few small scenes: their real commands and configs, about a second each, many files."""

import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crashing import Ended, Launcher, Run, contents, hidden

from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.stores.shards import RegionStore

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
        "shapes-pool": _shapes(world / "pool", 2),
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


class World:
    """A folder in which every stage was run once, uninterrupted; tests undo a stage and do it again, with accidents.

    Attributes:
        world: The folder.
        stages: By name.
        finished: Name below the folder -> digest, as it was then.
        copy: A folder with the same contents that nothing touches.
    """

    def __init__(self, world: Path, running: Launcher, without: Sequence[str] = ()) -> None:
        """Args: ``world`` is an empty folder; the stages ``without`` are left out."""
        self.world, self.launcher, self.copy = world, running, world.with_name("copy")
        self.stages: dict[str, Stage] = {}
        before: dict[str, str] = {}
        for name, argv in commands(world).items():
            if name in without:
                continue
            ended = running.succeed(argv)
            after = contents(world)
            assert before.items() <= after.items(), f"{name} changed what it was given"
            self.stages[name] = Stage(argv, dict(after.items() - before.items()), ended.seconds)
            before = after
        self.finished = before
        assert not hidden(world)
        shutil.copytree(world, self.copy)

    def begin(self, name: str) -> Stage:
        """A stage whose outputs are not there, in a world where all else is."""
        shutil.rmtree(self.world)
        shutil.copytree(self.copy, self.world)
        self.clear(self.stages[name])
        return self.stages[name]

    def stop_at_work(self, name: str, at_work: Callable[[Run], bool]) -> tuple[Stage, Run]:
        """Begin a stage and halt all of its processes (SIGSTOP) once ``at_work`` says so."""
        for _ in range(50):
            stage = self.begin(name)
            run = self.launcher.start(stage.argv)
            while not at_work(run) and not run.ends_within(0.001):
                pass
            run.send(signal.SIGSTOP)
            if not run.ends_within(0.05) and at_work(run):
                return stage, run
            run.send(signal.SIGCONT)  # it was faster
            run.wait()
        raise AssertionError(f"{name} is always done before it can be stopped")

    def clear(self, stage: Stage) -> None:
        """Remove what the stage wrote."""
        for name in stage.outputs:
            (self.world / name).unlink(missing_ok=True)
        for name in hidden(self.world):
            (self.world / name).unlink()

    def pool_at_work(self, run: Run) -> bool:
        """Whether both workers of ``shapes-pool`` live and one has written something."""
        return len(run.others()) == 2 and any(self.world.glob("pool/train2017/*.jpg"))

    def check_what_is_visible(self, stage: Stage, story: str) -> None:
        """Every file that has its final name has its final bytes; a folder with a manifest is complete."""
        found = contents(self.world)
        wrong = [name for name, digest in found.items() if self.finished.get(name) != digest]
        assert not wrong, f"{story}: not as an uninterrupted run writes them: {wrong}"
        lost = [name for name in self.finished if name not in found and name not in stage.outputs]
        assert not lost, f"{story}: its inputs are gone: {lost}"
        for name in found:
            folder = Path(name).parent
            if Path(name).name == "manifest.json":
                broken = Manifest.read(self.world / folder).broken_file(self.world / folder)
                assert not broken, f"{story}: {name} is there, but {broken}"
            if Path(name).name == "plan.json" and str(folder / "manifest.json") not in found:
                with pytest.raises(UserError, match="unfinished"):
                    RegionStore(self.world / folder)

    def check_the_end(self, ended: Ended, stage: Stage, story: str) -> None:
        """All files are there with the bytes of the uninterrupted run, and no others."""
        assert ended.status == 0, f"{story}: status {ended.status}\n{ended.text[-3000:]}"
        self.check_what_is_visible(stage, story)
        assert contents(self.world).keys() == self.finished.keys(), story
        assert not hidden(self.world), f"{story}: left behind: {hidden(self.world)}"
