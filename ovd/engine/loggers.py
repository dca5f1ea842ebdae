"""Training logs for TensorBoard and Weights & Biases, through mmengine's visualisation backends.

Off unless asked for by ``--log``. Every logger gets the same names, over iterations: ``train/loss``,
``train/loss_cls``, ..., ``train/lr``, ``train/grad_norm``; ``speed/time``, ``speed/data_time``, ``speed/memory``; and
from evaluations in between ``val/novel/ap50`` and the like. mmengine's own json lines stay as they are.
"""

import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer, WandbVisBackend
from mmengine.visualization.vis_backend import force_init_env

from ovd.errors import UserError, nearest

LOGGERS = ("tensorboard", "wandb")
PROJECT = "ovd"  # of Weights & Biases, unless WANDB_PROJECT says otherwise
_SPEED = ("time", "data_time", "memory", "eta")


def logged_name(name: str) -> str:
    """What a scalar of mmengine is called in the loggers.

    >>> logged_name("loss_cls"), logged_name("data_time"), logged_name("novel/ap50")
    ('train/loss_cls', 'speed/data_time', 'val/novel/ap50')
    """
    if "/" in name:
        return f"val/{name}"
    return f"speed/{name}" if name in _SPEED else f"train/{name}"


class TensorBoardLogger(TensorboardVisBackend):
    """mmengine's backend, with our names."""

    @force_init_env
    def add_scalars(self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None,
                    **kwargs) -> None:
        """Write the scalars of an iteration or an evaluation; NaN (no ground truth) is left out."""
        for name, value in _finite(scalar_dict).items():
            self.add_scalar(logged_name(name), value, step)


class WandbLogger(WandbVisBackend):
    """mmengine's backend, with our names and iterations as steps; it sends no source code."""

    def _init_env(self) -> None:
        import wandb

        try:
            super()._init_env()
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--log wandb: {reason}; run wandb login, or set WANDB_MODE=offline") from error

    @force_init_env
    def add_config(self, config: Config, **kwargs) -> None:
        """Record the config."""
        self._wandb.config.update(config.to_dict(), allow_val_change=True)

    @force_init_env
    def add_scalars(self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None,
                    **kwargs) -> None:
        """Send the scalars of an iteration or an evaluation; NaN (no ground truth) is left out."""
        self._wandb.log({logged_name(name): value for name, value in _finite(scalar_dict).items()}, step=step)

    def close(self) -> None:
        """Finish the run."""
        if hasattr(self, "_wandb"):
            self._wandb.finish()


def check_loggers(names: Sequence[str]) -> None:
    """UserError for a logger that is unknown or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise UserError(f"--log: unknown logger {name!r}{nearest(name, LOGGERS)}")
        if not _installed(name):
            raise UserError(f'--log {name}: {name} is not installed; install it: pip install "ovd[logging]"')


def add_loggers(cfg: Config, names: Sequence[str]) -> None:
    """Put loggers into a config, beside those that it has; :func:`check_loggers` first."""
    if not names:
        return
    visualizer = dict(cfg.get("visualizer") or {"type": Visualizer, "vis_backends": [{"type": LocalVisBackend}]})
    backends = list(visualizer.get("vis_backends") or ())
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            backends.append({"type": TensorBoardLogger})
        else:
            run = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "name": Path(cfg.work_dir).name}
            backends.append({"type": WandbLogger, "init_kwargs": run})
    cfg.visualizer = {**visualizer, "vis_backends": backends}


def _finite(scalars: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in scalars.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number) and name not in ("iter", "epoch"):
            found[name] = number
    return found


def _installed(name: str) -> bool:
    return find_spec(name) is not None
