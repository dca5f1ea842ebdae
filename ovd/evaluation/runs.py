"""A run as it lies in its work directory: what was set, what was logged, what was found, and what is not there.

``read_run`` reads a training's or test's folder, finished or not, or that of a recipe. Nothing in it is run and nothing
is unpickled; what is large (annotations, detections) is named by its path, and read by whoever needs it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from ovd.errors import UserError
from ovd.evaluation.saved_config import read_saved_config
from ovd.evaluation.training_log import Curve, TrainingLog, curves_of, read_training_log
from ovd.stores.manifest import Manifest

JOURNAL = "run.json"  # of a recipe (a journal of stages), and of a training (its config)
DETECTIONS = ("detections.json", "detections.pkl")
HEIGHT = 3  # so many folders above a run a recipe's journal is looked for


class StageTimes(msgspec.Struct):
    """A stage in a recipe's journal: when it ran (seconds of the epoch), its memory, its command and its outputs."""

    status: str = "running"
    intervals: list[tuple[float, float]] = []
    peak_memory_mb: float = 0.0
    outputs: dict[str, str] = {}
    command: list[str] = []
    reused: bool = False

    @property
    def seconds(self) -> float:
        """How long it ran."""
        total, reached = 0.0, float("-inf")
        for begin, end in sorted(self.intervals):
            total, reached = total + max(0.0, end - max(begin, reached)), max(reached, end)
        return total


class Recipe(msgspec.Struct):
    """A recipe's journal."""

    recipe: str
    seed: int
    stages: dict[str, StageTimes]
    machine: dict[str, Any] = {}
    code_version: str = ""
    report: dict[str, Any] = {}


@dataclass(frozen=True)
class Missing:
    """Something that a work directory could have and has not, and the command that makes it ("" where none does)."""

    what: str
    command: str


@dataclass(frozen=True)
class Run:
    """A work directory. What is not there is None (an empty mapping or sequence where that says the same).

    Attributes:
        work_dir: the folder.
        name: its last part, with the parts above it that tell runs of a study apart.
        status: in words, such as ``trained to iteration 600 and tested``.
        settings: (what, value) for people: model, schedule, data, seed, code.
        fingerprints: name of an input or output -> ``sha256:...``.
        flags: marks of the checkpoint, such as ``untrained`` and ``smoke``.
        config: the config in full, as plain values.
        decisive: what of it decided the outcome of the training.
        config_file: the config's own file where it is found, else the copy in the work directory.
        metrics: ``{"novel/ap50": per cent, ...}``; None values where there is no ground truth.
        evaluations: the lines of results.jsonl, oldest first.
        log: losses and more over iterations.
        checkpoint, detections: files.
        annotations, images, split, protocol: the ground truth of the test set; ``split`` is a name or a file.
        proposals, class_head: the test set's store of proposals and the class head that the config names.
        regions, region_annotations: the region store of the test set, or else of the training set, and its annotations.
        fewshot: the rows that ``ovd fewshot-eval`` wrote, with this folder's checkpoint or into this folder.
        recipe: the journal, of a recipe's folder.
        stages: name -> times: all of a recipe, or those of the recipe above that concern this run.
    """

    work_dir: Path
    name: str
    status: str = ""
    settings: Sequence[tuple[str, str]] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    decisive: Mapping[str, Any] | None = None
    config_file: Path | None = None
    metrics: Mapping[str, float | None] | None = None
    evaluations: Sequence[Mapping[str, Any]] = ()
    log: TrainingLog | None = None
    checkpoint: Path | None = None
    detections: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    split: str | None = None
    protocol: str = "coco"
    proposals: Path | None = None
    regions: Path | None = None
    region_annotations: Path | None = None
    class_head: Path | None = None
    fewshot: Sequence[Mapping[str, Any]] = ()
    recipe: Recipe | None = None
    stages: Mapping[str, StageTimes] = field(default_factory=dict)

    @property
    def has_classes(self) -> bool:
        """Whether it is a detector: a proposal network has no classes."""
        model = (self.config or {}).get("model") or {}
        return bool({"roi_head", "bbox_head"} & set(model))

    @property
    def data_root(self) -> str | None:
        """The folder of the dataset, as the config says it."""
        return (self.config or {}).get("data_root")

    def validations(self) -> dict[str, Curve]:
        """Figures of the evaluations during training, such as ``novel/ap50``, over iterations."""
        rows = []
        for line in self.evaluations:
            if line.get("kind") == "val" and isinstance(line.get("iteration"), int):
                groups = {"all": line, **{group: line[group] for group in ("base", "novel") if group in line}}
                rows.append({"step": line["iteration"], **{
                    f"{group}/{name}": figures[key] for group, figures in groups.items()
                    for key, name in (("boxAP", "ap"), ("bAP50", "ap50")) if figures.get(key) is not None}})
        return curves_of(rows)

    def missing(self) -> list[Missing]:
        """What the folder could have and has not, in the order in which it is made."""
        if self.recipe is not None:
            return self._unfinished()
        if self.config is None:
            return []
        where = f" --data-root {self.data_root}" if self.data_root else ""
        config, weights = self.config_file or "CONFIG", self.work_dir / "final.pth"
        test = f"ovd test {config} {weights}{where} --work-dir {self.work_dir} --out {self.work_dir / DETECTIONS[0]}"
        found = []
        if self.checkpoint is None:
            found.append(Missing("the trained weights, final.pth",
                                 f"ovd train {config}{where} --work-dir {self.work_dir} --resume"))
        if self.log is None:
            found.append(Missing("losses: " + ("none was logged so far" if self.config.get("train_dataloader") else
                                               "training happened elsewhere"), ""))
        if not self.has_classes:
            return found
        added = self.config["model"].get("type", "").endswith((".SylphFCOS", ".HyperRoI"))
        of_detections = "of each class, precision and recall, errors, pictures"
        if self.metrics is None and added and not self.fewshot:
            found.append(Missing("figures", f"ovd fewshot-eval {config} {weights}{where} --methods codes --shots 5 "
                                            f"--out {self.work_dir / 'fewshot'}"))
        elif self.metrics is None and not added:
            found.append(Missing(f"figures; and detections: figures {of_detections}", test))
        elif self.detections is None and not added:
            found.append(Missing(f"detections: figures {of_detections}", test))
        if self.annotations is None and self._setting("val_ann") != "-":
            found.append(Missing(f"the annotations of the test set ({self._setting('val_ann')})",
                                 f"ovd build-zsl --split {self._setting('split')}{where}"))
        if self.proposals is None and "rpn_head" in self.config["model"]:
            found.append(Missing(f"the proposals of the test set ({self._setting('proposal_store_val')})",
                                 f"ovd proposals {config} {weights}{where} --subset val"))
        return found

    def _unfinished(self) -> list[Missing]:
        """The stages of a recipe that began and are not done."""
        open_ = [name for name, stage in self.stages.items() if stage.status != "done"]
        file = next(iter(sorted(Path("configs").rglob(f"recipes/{self.recipe.recipe}.py"))), "RECIPE")
        what = f"the results of {len(open_)} of {len(self.stages)} stages: {', '.join(open_[:5])}"
        command = f"ovd run {file} --work-dir {self.work_dir} --seed {self.recipe.seed}"
        return [Missing(what + ", ..." * (len(open_) > 5), command)] if open_ else []

    def _setting(self, name: str) -> Any:
        return (self.config or {}).get(name) or "-"


def read_run(work_dir: str | os.PathLike) -> Run:
    """Everything that a work directory has.

    Args:
        work_dir: the folder of a training, of a test, or of a recipe; half finished ones too.

    Raises:
        UserError: no such folder, or one in which neither a run nor a recipe left anything.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a work directory, such as work_dirs/vild")
    recipe = _recipe(folder)
    if recipe is not None:
        return Run(folder, folder.name, _recipe_status(recipe), _recipe_settings(recipe), recipe=recipe,
                   stages=recipe.stages)
    configs = _configs(folder)
    log, metrics = read_training_log(folder), _metrics(folder)
    checkpoint = _first(folder / "final.pth")
    fewshot = _fewshot(folder, checkpoint)
    if not configs and log is None and metrics is None and not fewshot:
        raise UserError(f"{folder}: no run and no recipe left anything here (run.json, a log, metrics.json); give the "
                        "--work-dir of ovd train, ovd test or ovd run" + _runs_below(folder))
    trained = next((config for _, config in reversed(configs) if config.get("train_dataloader")), None)
    tested = next((config for _, config in reversed(configs) if config.get("test_evaluator")), None)
    config = tested or trained or {}
    manifest = _manifest(checkpoint or folder / JOURNAL)
    fingerprints = dict(manifest.inputs) if manifest else {}
    if manifest and checkpoint:
        fingerprints["final.pth"] = manifest.content
    stages = _stages_above(folder)
    regions, region_annotations = _regions(config, folder)
    return Run(
        folder, _name(folder), _status(log, trained, checkpoint, _evaluated(config, metrics, fewshot)),
        _settings(trained or config, manifest, log),
        fingerprints, manifest.flags if manifest else {}, config or None, manifest.config if manifest else None,
        _config_file(configs, folder, stages), metrics,
        _json_lines(folder / "results.jsonl"), log, checkpoint,
        _first(*(folder / name for name in DETECTIONS)), **_truth(config, folder),
        proposals=_named(config, "proposal_store_val", folder), regions=regions, region_annotations=region_annotations,
        class_head=_named(config, "class_head", folder), fewshot=fewshot, stages=stages)


def runs_below(work_dir: str | os.PathLike) -> list[Path]:
    """The folders below a recipe's (or any) folder that hold runs, in order of their names (2 before 10)."""
    marks = ("run.json", "metrics.json", "fewshot.json")
    found = {path.parent for depth in range(1, HEIGHT + 1) for mark in marks
             for path in Path(work_dir).glob("/".join(["*"] * depth + [mark]))}
    return sorted(found, key=lambda path: [(int(part), "") if part.isdigit() else (-1, part)
                                           for part in re.split(r"(\d+)", str(path))])


def _runs_below(folder: Path) -> str:
    below = runs_below(folder)
    return f"; there are runs in it: {', '.join(map(str, below[:4]))}" if below else ""


def _recipe(folder: Path) -> Recipe | None:
    path = folder / JOURNAL
    try:
        content = path.read_bytes()
        if b'"stages"' not in content:
            return None
        return msgspec.json.decode(content, type=Recipe)
    except OSError:
        return None
    except msgspec.ValidationError:
        return None  # the config of a training that has a section of this name
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not the journal of a run ({error}); delete it, and run the recipe") from error


def _recipe_status(recipe: Recipe) -> str:
    counts: dict[str, int] = {}
    for stage in recipe.stages.values():
        counts[stage.status] = counts.get(stage.status, 0) + 1
    return ", ".join(f"{count} stage{'s' * (count != 1)} {status}"
                     for status, count in counts.items()) or "no stage has run"


def _recipe_settings(recipe: Recipe) -> list[tuple[str, str]]:
    machine = ", ".join(f"{name} {value}" for name, value in recipe.machine.items())
    return [("recipe", f"{recipe.recipe}, seed {recipe.seed}"), ("code", recipe.code_version), ("machine", machine)]


def _configs(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(stem of the config's file, config) of every time that training or testing began here, oldest first."""
    own = sorted(folder.glob("*.py"))
    stem = own[0].stem if len(own) == 1 else ""
    found = [(stem, read_saved_config(path)) for path in sorted(folder.glob("*/vis_data/config.py"))]
    return found or [(path.stem, read_saved_config(path)) for path in own]


def _config_file(configs: Sequence[tuple[str, Mapping[str, Any]]], folder: Path,
                 stages: Mapping[str, StageTimes]) -> Path | None:
    """The config's own file: what the run says, else the one that a recipe's command names or the only one of its name;
    where none of them is there, the copy in the folder."""
    if not configs:
        return None
    stem, config = configs[-1]
    recorded = Path(str(config.get("config_file") or ""))
    if recorded.is_file():
        here = Path.cwd()
        return recorded.relative_to(here) if recorded.is_absolute() and recorded.is_relative_to(here) else recorded
    named = {Path(word) for stage in stages.values() for word in stage.command if Path(word).name == f"{stem}.py"}
    found = sorted(path for path in named or Path("configs").rglob(f"{stem}.py") if path.is_file()) if stem else []
    own = sorted(folder.glob("*.py"))
    return found[0] if len(found) == 1 else own[0] if own else None


def _metrics(folder: Path) -> dict[str, float | None] | None:
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        value = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not a json file ({error}); write it again with ovd test") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a json object; write it again with ovd test")
    figures = {name: figure for name, figure in value.items() if "/" in name}
    return figures or None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # a line that an interruption cut off
    return [row for row in rows if isinstance(row, dict)]


def _manifest(artefact: Path) -> Manifest | None:
    try:
        return Manifest.read(artefact)
    except UserError:
        return None


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _name(folder: Path) -> str:
    """``seed0/vild`` where the folder above is one of a study's, else ``vild``."""
    parts = folder.resolve().parts
    return "/".join(parts[-2:]) if len(parts) > 2 and parts[-2] != "work_dirs" else parts[-1]


def _evaluated(config: Mapping[str, Any], metrics: Mapping[str, Any] | None, fewshot: Sequence[Any]) -> str:
    if config and not {"roi_head", "bbox_head"} & set(config.get("model") or {}):
        return "a proposal network"
    found = ["tested"] * (metrics is not None) + ["evaluated with added classes"] * bool(fewshot)
    return " and ".join(found) or "not tested"


def _status(log: TrainingLog | None, config: Mapping[str, Any] | None, checkpoint: Path | None, evaluated: str) -> str:
    reached = log.last_step if log else 0
    end = ((config or {}).get("train_cfg") or {}).get("max_iters")
    if checkpoint is not None:
        trained = f"trained to iteration {reached}" if reached else "trained"
    elif log is not None:
        trained = f"not finished: iteration {reached}" + (f" of {end}" if end else "")
    elif config is not None and evaluated == "not tested":
        trained = "begun, nothing was logged so far"
    else:
        return evaluated
    return f"{trained}, {evaluated}"


def _settings(config: Mapping[str, Any], manifest: Manifest | None,
              log: TrainingLog | None) -> list[tuple[str, str]]:
    """The settings that people ask for first; the config has the others."""
    model = config.get("model") or {}
    loader = config.get("train_dataloader") or {}
    schedule = config.get("train_cfg") or {}
    optimiser = (config.get("optim_wrapper") or {}).get("optimizer") or {}
    length = next((f"{schedule[key]} {words}" for key, words in (("max_iters", "iterations"), ("max_epochs", "epochs"))
                   if schedule.get(key)), "")
    batch = f"{loader['batch_size']} images a batch" if loader.get("batch_size") else ""
    rates = [f"{name} {optimiser[key]}" for name, key in (("learning rate", "lr"), ("weight decay", "weight_decay"))
             if key in optimiser]
    rows = [("model", _joined(_type(model), model.get("mode"))), ("backbone", _type(model.get("backbone"))),
            ("schedule", _joined(length, batch)), ("optimiser", _joined(_type(optimiser), *rates)),
            ("weights to start from", str(config.get("load_from") or "") if loader else ""),
            ("seed", str((config.get("randomness") or {}).get("seed", ""))),
            ("split", str(config.get("split") or "")), ("data", str(config.get("data_root") or "")),
            ("class head", str(config.get("class_head") or ""))]
    if manifest is not None:
        rows += [("training images", f"{manifest.counts['images']:,}" if manifest.counts.get("images") else ""),
                 ("code", manifest.code_version),
                 ("wall time", f"{manifest.wall_seconds:.0f} s" if manifest.wall_seconds else "")]
    if log is not None and (pace := log.median("time")):
        rows.append(("an iteration", f"{pace:.3f} s, of which {log.median('data_time') or 0:.3f} s wait for data"))
    if log is not None and (memory := log.peak("memory")):
        rows.append(("GPU memory", f"{memory:,.0f} MB"))
    return [(what, value) for what, value in rows if value]


def _type(section: Mapping[str, Any] | None) -> str:
    return str((section or {}).get("type", "")).rpartition(".")[2]


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _truth(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The test set's annotations, images, split and protocol."""
    evaluator = config.get("test_evaluator") or {}
    if isinstance(evaluator, list | tuple):
        evaluator = next((one for one in evaluator if isinstance(one, dict) and one.get("ann_file")), {})
    loader = (config.get("test_dataloader") or {}).get("dataset") or {}
    while isinstance(loader.get("dataset"), dict):
        loader = loader["dataset"]
    root = evaluator.get("data_root") or loader.get("data_root") or config.get("data_root") or ""
    ann_file = evaluator.get("ann_file") or loader.get("ann_file") or config.get("val_ann")
    prefix = (loader.get("data_prefix") or {}).get("img", config.get("val_prefix") or "")
    split = evaluator.get("split") or loader.get("split") or config.get("split")
    if isinstance(split, str) and split.endswith(".json"):
        split = str(_find(Path(root, split), folder) or Path(root, split))
    return {"annotations": _find(Path(root, ann_file), folder) if ann_file else None,
            "images": _find(Path(root, prefix), folder) if ann_file else None,
            "split": split if isinstance(split, str) else None, "protocol": evaluator.get("protocol") or "coco"}


def _named(config: Mapping[str, Any], key: str, folder: Path) -> Path | None:
    value = config.get(key)
    return _find(Path(config.get("data_root") or "", value), folder) if isinstance(value, str) else None


def _regions(config: Mapping[str, Any], folder: Path) -> tuple[Path | None, Path | None]:
    """The region store and its annotations, of the test set where there is one."""
    train = config.get("region_store")
    val = config.get("region_store_val")
    if val is None and isinstance(train, str) and "train" in Path(train).name:
        val = str(Path(train).with_name(Path(train).name.replace("train", "val")))
    for store, annotations in ((val, "val_ann"), (train, "train_ann")):
        found = _named({**config, "store": store}, "store", folder)
        truth = _named(config, annotations, folder)
        if found is not None and truth is not None:
            return found, truth
    return None, None


def _find(path: Path, folder: Path) -> Path | None:
    """A path that a run named relative to where it was started: from here, or from a folder above the run's."""
    if path.exists():
        return path
    return None if path.is_absolute() else _first(*(above / path for above in folder.resolve().parents))


def _fewshot(folder: Path, checkpoint: Path | None) -> list[dict[str, Any]]:
    """The rows of fewshot.json here, or of those beside the folder that were made with its checkpoint."""
    files = [folder / "fewshot.json", folder / "fewshot" / "fewshot.json"]
    made = _manifest(checkpoint) if checkpoint else None
    if made is not None:
        for path in sorted(folder.parent.glob("*/fewshot.json")):
            manifest = _manifest(path)
            if manifest is not None and made.content in manifest.inputs.values():
                files.append(path)
    rows: list[dict[str, Any]] = []
    for path in dict.fromkeys(path for path in files if path.is_file()):
        try:
            rows += msgspec.json.decode(path.read_bytes())["rows"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not the result of ovd fewshot-eval; run it again with --overwrite") from error
    return rows


def _stages_above(folder: Path) -> dict[str, StageTimes]:
    """The stages of the nearest recipe above whose command or outputs name this folder."""
    here = folder.resolve()
    for above in here.parents[:HEIGHT]:
        recipe = _recipe(above)
        if recipe is not None:
            mine = f"/{here.relative_to(above.parent)}/"
            return {name: stage for name, stage in recipe.stages.items()
                    if any(mine in f"/{path}/" for path in [*stage.outputs, *_work_dir(stage.command)])}
    return {}


def _work_dir(command: Sequence[str]) -> list[str]:
    return [word for before, word in pairwise(command) if before == "--work-dir"]
