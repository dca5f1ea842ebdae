"""Train a detector or a proposal network.

Writes to the work directory (work_dirs/<config name> unless said otherwise): iter_*.pth or epoch_*.pth to go on from,
the log, the config in full, and at the end final.pth with its manifest. A run whose final.pth is up to date is skipped.
"""

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.engine.options import add_run_arguments, add_smoke_argument
from ovd.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

DEFAULT_SEED = 3407
# the sections of a config that decide what comes out of training ...
DECISIVE = ("model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "randomness", "auto_scale_lr",
            "custom_hooks", "load_from")
# ... less these keys, anywhere in them
INCIDENTAL = frozenset({"num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "test_cfg", "val_begin",
                        "val_interval", "data_root", "backend_args"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/train.py``."""
    parser.add_argument("config", help="the config file")
    parser.add_argument("--resume", nargs="?", const="auto", metavar="CKPT",
                        help="go on from the last checkpoint in the work directory (if there is one), or from CKPT")
    parser.add_argument("--seed", type=int, help=f"of all that is random (default: the config's, or {DEFAULT_SEED})")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (on a GPU)")
    parser.add_argument("--overwrite", action="store_true", help="start over, whatever the work directory holds")
    parser.add_argument("--log", nargs="+", default=[], metavar="LOGGER",
                        help="also log to tensorboard and / or wandb (see docs/report.md)")
    add_smoke_argument(parser)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/train.py`` and ``ovd train``."""
    train(args.config, options=args.cfg_options, data_root=args.data_root, work_dir=args.work_dir, resume=args.resume,
          seed=args.seed, amp=args.amp, overwrite=args.overwrite, device=args.device, launcher=args.launcher,
          smoke=args.smoke, loggers=args.log)
    return 0


def train(config: str | Path, *, options: Sequence[str] | Mapping[str, Any] = (), data_root: str | Path | None = None,
          work_dir: str | Path | None = None, resume: str | Path | None = None, seed: int | None = None,
          amp: bool = False, overwrite: bool = False, device: str = "auto", launcher: str = "none",
          smoke: bool = False, loggers: Sequence[str] = ()) -> Path:
    """Train what a config describes.

    Args:
        config, options, data_root, work_dir: see :func:`ovd.engine.config.load_config`.
        resume: ``"auto"`` to go on from the last checkpoint in the work directory if there is one, or a checkpoint.
        seed: instead of the config's.
        amp: automatic mixed precision.
        overwrite: start over where the work directory holds a run.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: ``pytorch`` in a process that torchrun started.
        smoke: a few iterations, to see that it runs (:mod:`ovd.engine.smoke`).
        loggers: ``tensorboard`` and / or ``wandb`` (:mod:`ovd.engine.loggers`); they change nothing else.

    Returns:
        the final checkpoint: the weights, and in its manifest what they were made from.

    Raises:
        UserError: wrong input; a run in the work directory that is not this one; a loss that is not finite.
    """
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.launch import choose_device, is_main, on_main, quiet, start_processes, stop_processes, world_size
    from ovd.engine.loggers import add_loggers, check_loggers
    from ovd.engine.marks import FLAG, marked, warn
    from ovd.engine.preflight import check_class_heads, check_crops, check_inputs, find_inputs, fingerprints
    from ovd.engine.runner import DetectionRunner
    from ovd.engine.smoke import FLAG as SMOKE
    from ovd.engine.smoke import announced, smoke_training, smoked
    from ovd.engine.smoke import warn as warn_of_smoke

    quiet()
    start = time.perf_counter()
    torch_device = choose_device(device)
    start_processes(launcher, torch_device)

    def configure() -> "Config":
        cfg = load_config(config, options, data_root, work_dir)
        resolve_types(cfg)
        _configure(cfg, seed, amp, torch_device.type)
        if smoke:
            smoke_training(cfg)
        return cfg

    def prepare() -> tuple[dict, str | None]:
        check_loggers(loggers)
        cfg = configure()
        inputs = find_inputs(cfg, ("model", "train_dataloader"))
        check_inputs(inputs + find_inputs(cfg, ("val_dataloader",)))
        check_crops(cfg, inputs)
        check_class_heads(cfg.model)
        record = {"config": {**decisive(cfg), "processes": world_size()}, "inputs": fingerprints(inputs)}
        origins = [*(entry.path for entry in inputs), *([] if resume in (None, "auto") else [resume])]
        sources, smokes = marked(origins), smoked(origins)
        warn(sources, "What is trained from it serves")
        warn_of_smoke(smokes)
        flags = ({FLAG: True} if sources else {}) | ({SMOKE: True} if smoke or smokes else {})
        if smoke:
            record["config"][SMOKE] = True
        return record, _start_from(Path(cfg.work_dir, "final.pth"), record, flags, resume, overwrite)

    def work() -> Path:
        record, checkpoint = on_main(prepare)
        cfg = configure()
        final = Path(cfg.work_dir, "final.pth")
        if checkpoint == "done":
            if is_main():
                print(f"{final} is up to date")
            return final
        if checkpoint is not None:
            cfg.load_from, cfg.resume = checkpoint, True
        add_loggers(cfg, loggers)
        runner = DetectionRunner.from_config(cfg, torch_device, launcher)
        runner.train()
        if is_main():
            _publish(final, record, runner, time.perf_counter() - start)
            print(f"trained to iteration {runner.iter} in {time.perf_counter() - start:.0f} s: {final}")
        return final

    try:
        with announced("ovd train", smoke and is_main()):
            return work()
    finally:
        stop_processes()


def decisive(cfg: "Config") -> dict[str, Any]:
    """What of a config decides the outcome of training, as JSON-ready dicts."""
    from ovd.engine.config import plain

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in INCIDENTAL}
        return [strip(item) for item in value] if isinstance(value, list) else value

    sections = plain(cfg)
    return {name: strip(sections[name]) for name in DECISIVE if sections.get(name) is not None}


def _configure(cfg: "Config", seed: int | None, amp: bool, device: str) -> None:
    """Put the seed and mixed precision into the config."""
    for section in ("model", "train_dataloader", "train_cfg", "optim_wrapper"):
        if not cfg.get(section):
            raise UserError(f"{cfg.filename}: nothing to train: the config has no {section}")
    randomness = dict(cfg.get("randomness") or {})
    randomness["seed"] = next(s for s in (seed, randomness.get("seed"), DEFAULT_SEED) if s is not None)
    cfg.randomness = randomness
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    if amp:
        if device == "cpu":
            raise UserError("--amp: mixed precision needs a GPU; leave --amp out")
        cfg.optim_wrapper = {"loss_scale": "dynamic", **cfg.optim_wrapper, "type": "AmpOptimWrapper"}


def _start_from(final: Path, record: dict, flags: dict, resume: str | Path | None, overwrite: bool) -> str | None:
    """What to start from: a checkpoint, nothing (None), or ``"done"``; clears the work directory for a new run."""
    from ovd.engine.checkpoints import latest_checkpoint, read_checkpoint
    from ovd.stores.manifest import Manifest, current_or_remove, difference, publish

    folder, begun = final.parent, final.with_name("run.json")
    if current_or_remove(final, "train", **record, overwrite=overwrite):
        return "done"
    latest = latest_checkpoint(folder)
    if resume not in (None, "auto"):
        read_checkpoint(resume)
        checkpoint = str(resume)
    elif latest is None or overwrite:
        checkpoint = None
    elif resume is None:
        raise UserError(f"{folder}: holds a run that was interrupted ({latest.name}); pass --resume to go on with it, "
                        f"or --overwrite to start over")
    elif reason := difference(begun, "train", **record):
        raise UserError(f"{begun}: the interrupted run {reason}; pass --overwrite to start over, or go on all the same "
                        f"by naming the checkpoint: --resume {latest}")
    else:
        checkpoint = str(latest)
    if checkpoint is None and folder.is_dir():
        for old in folder.iterdir():
            if re.fullmatch(r"((iter|epoch)_\d+|best_.*)\.pth(\.part)?|last_checkpoint", old.name):
                old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with publish(begun, Manifest("run", "train", **record, flags=flags)) as (temporary, _):
        temporary.write_text(json.dumps(record["config"], indent=1) + "\n")
    return checkpoint


def _publish(final: Path, record: dict, runner: Any, seconds: float) -> None:
    """Write the weights, without the optimiser's state, and their manifest."""
    import torch
    from mmengine.model import is_model_wrapper

    from ovd.engine.conversion.usage import usage_record
    from ovd.stores.manifest import Manifest, publish
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    dataset = runner.train_dataloader.dataset
    meta = {"seed": runner.seed, "iter": runner.iter, "classes": list(dataset.metainfo.get("classes", ())),
            "num_base": dataset.metainfo.get("num_base"), **usage_record(runner.cfg.model)}
    contents = {"state_dict": {name: value.cpu() for name, value in model.state_dict().items()}, "meta": meta}
    manifest = Manifest("checkpoint", "train", **record, counts={"iterations": runner.iter, "images": len(dataset)},
                        wall_seconds=round(seconds, 1), flags=Manifest.read(final.with_name("run.json")).flags)
    with publish(final, manifest) as (temporary, _), open(temporary, "wb") as file:
        torch.save(contents, file)  # to a file object: given a path, torch would write its name into the archive
