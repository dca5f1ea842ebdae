"""A run as it lies in its work directory: what was set, what was logged, what was found, and what is not there.

``read_run`` reads a training's or test's folder, finished or not, or that of a recipe. Nothing in it is run and nothing
is unpickled; what is large (annotations, detections) is named by its path, and read by whoever needs it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ovd.errors import UserError
from ovd.evaluation.run_config import config_file, named_file, region_files, saved_configs, settings_of, truth_files
from ovd.evaluation.run_journal import (
    JOURNAL,
    Recipe,
    StageTimes,
    read_recipe,
    recipe_settings,
    recipe_status,
    runs_below,
    stages_above,
)
from ovd.evaluation.training_log import Curve, TrainingLog, curves_of, read_training_log
from ovd.shipped import CONFIGS, shown
from ovd.stores.manifest import Manifest

DETECTIONS = ("detections.json", "detections.pkl")


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
        own = CONFIGS / "recipes" / f"{self.recipe.recipe}.py"
        file = shown(own) if own.is_file() else "RECIPE"
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
    recipe = read_recipe(folder)
    if recipe is not None:
        return Run(folder, folder.name, recipe_status(recipe), recipe_settings(recipe), recipe=recipe,
                   stages=recipe.stages)
    configs = saved_configs(folder)
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
    stages = stages_above(folder)
    regions, region_annotations = region_files(config, folder)
    return Run(
        work_dir=folder, name=_name(folder),
        status=_status(log, trained, checkpoint, _evaluated(config, metrics, fewshot)),
        settings=settings_of(trained or config, manifest, log), fingerprints=fingerprints,
        flags=manifest.flags if manifest else {}, config=config or None, decisive=manifest.config if manifest else None,
        config_file=config_file(configs, folder, stages), metrics=metrics,
        evaluations=_json_lines(folder / "results.jsonl"), log=log, checkpoint=checkpoint,
        detections=_first(*(folder / name for name in DETECTIONS)), **truth_files(config, folder),
        proposals=named_file(config, "proposal_store_val", folder), regions=regions,
        region_annotations=region_annotations, class_head=named_file(config, "class_head", folder), fewshot=fewshot,
        stages=stages)


def read_runs_below(work_dir: str | os.PathLike) -> list[Run]:
    """The runs below a recipe's (or any) folder that left something to show, in order of their names."""
    runs = []
    for folder in runs_below(work_dir):
        try:
            run = read_run(folder)
        except UserError:
            continue  # a data folder with a manifest of another kind
        if run.recipe is None and (run.metrics or run.log or run.fewshot):
            runs.append(run)
    return runs


def _runs_below(folder: Path) -> str:
    below = runs_below(folder)
    more = f" and {len(below) - 4} more" if len(below) > 4 else ""
    return f"; there are runs in it: {', '.join(map(str, below[:4]))}{more}" if below else ""


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
    if wrong := next((name for name, figure in figures.items() if not isinstance(figure, int | float | None)), None):
        raise UserError(f"{path}: {wrong} is {figures[wrong]!r}, not a number; write it again with ovd test")
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
