"""What the config that a run left says of it: settings for people, and where the files lie that belong to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovd.evaluation.run_journal import StageTimes
from ovd.evaluation.saved_config import read_saved_config
from ovd.evaluation.training_log import TrainingLog
from ovd.shipped import CONFIGS, located, shown
from ovd.stores.manifest import Manifest


def saved_configs(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(stem of the config's file, config) of every time that training or testing began here, oldest first."""
    own = sorted(folder.glob("*.py"))
    stem = own[0].stem if len(own) == 1 else ""
    found = [(stem, read_saved_config(path)) for path in sorted(folder.glob("*/vis_data/config.py"))]
    return found or [(path.stem, read_saved_config(path)) for path in own]


def config_file(configs: Sequence[tuple[str, Mapping[str, Any]]], folder: Path,
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
    found = sorted(shown(located(path)) for path in named or CONFIGS.rglob(f"{stem}.py") if located(path).is_file()) \
        if stem else []
    own = sorted(folder.glob("*.py"))
    return found[0] if len(found) == 1 else own[0] if own else None


def settings_of(config: Mapping[str, Any], manifest: Manifest | None,
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


def truth_files(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
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


def named_file(config: Mapping[str, Any], key: str, folder: Path) -> Path | None:
    """The file or folder that a setting names, relative to the data root; None where it is not there."""
    value = config.get(key)
    return _find(Path(config.get("data_root") or "", value), folder) if isinstance(value, str) else None


def region_files(config: Mapping[str, Any], folder: Path) -> tuple[Path | None, Path | None]:
    """The region store and its annotations, of the test set where there is one."""
    train = config.get("region_store")
    val = config.get("region_store_val")
    if val is None and isinstance(train, str) and "train" in Path(train).name:
        val = str(Path(train).with_name(Path(train).name.replace("train", "val")))
    for store, annotations in ((val, "val_ann"), (train, "train_ann")):
        found = named_file({**config, "store": store}, "store", folder)
        truth = named_file(config, annotations, folder)
        if found is not None and truth is not None:
            return found, truth
    return None, None


def _find(path: Path, folder: Path) -> Path | None:
    """A path that a run named relative to where it was started: from here, or from a folder above the run's."""
    above = () if path.is_absolute() else folder.resolve().parents
    return next((candidate for candidate in (path, *(parent / path for parent in above)) if candidate.exists()), None)
