"""Reading and finding checkpoints without running the code that a pickle may carry."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ovd.errors import UserError, nearest


def _history_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr`` in checkpoints: log histories refer to their own methods by it, nothing else may."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError("GLOBAL builtins.getattr")
    return getattr(HistoryBuffer, name)


# What a checkpoint of mmengine holds beside tensors, containers and numbers: arrays and log histories.
PLAIN_OBJECTS = [multiarray._reconstruct, multiarray.scalar, np.ndarray, np.dtype, HistoryBuffer,
                 *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
                 (_history_method, "builtins.getattr"), (_history_method, "__builtin__.getattr")]


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """The contents of a checkpoint (mmengine's, a bare state dict, or a ``.safetensors`` file) on the CPU.

    Only tensors, containers, numbers, numpy arrays and mmengine's log buffers are read; anything else a pickle could
    do is refused.

    Returns:
        A dict with ``state_dict`` and whatever else the file has (``meta``, ``optimizer``, ``message_hub``, ...).

    Raises:
        UserError: missing, truncated, not a checkpoint, or not safe to load.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return {"state_dict": _read_safetensors(path)}
    if not path.is_file():
        found = [str(p) for p in path.parent.glob("*.pth")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such checkpoint" + (nearest(str(path), found) if found else ""))
    try:
        with torch.serialization.safe_globals(PLAIN_OBJECTS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it refers to {reason[1]}" if reason else "the pickle in it is damaged or holds objects"
        raise UserError(f"{path}: refused, because it is not a plain checkpoint: {what}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable checkpoint (cut off or damaged): copy or train it again") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    if "state_dict" not in checkpoint:
        for key in ("model", "module"):  # other projects' name for it
            if isinstance(checkpoint.get(key), dict):
                return {"state_dict": checkpoint[key]}
        checkpoint = {"state_dict": checkpoint}
    weights = checkpoint["state_dict"]
    if not weights or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise UserError(f"{path}: holds no weights")
    prefix = "module."
    if all(name.startswith(prefix) for name in weights):
        checkpoint["state_dict"] = {name[len(prefix):]: value for name, value in weights.items()}
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        found = [str(other) for other in path.parent.glob("*.safetensors")]
        raise UserError(f"{path}: no such file" + (nearest(str(path), found) if found else ""))
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); copy it again") from error


def latest_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint with which an interrupted run in ``work_dir`` goes on, or None."""
    def step(path: Path) -> int:
        return int(re.fullmatch(r"(?:iter|epoch)_(\d+)", path.stem)[1])

    found = [p for p in Path(work_dir).glob("*.pth") if re.fullmatch(r"(?:iter|epoch)_\d+", p.stem)]
    return max(found, key=step, default=None)


def load_exactly(model: nn.Module, weights: dict[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load ``weights`` into ``model``; every tensor must be there with its shape.

    Raises:
        UserError: naming the first tensors that are missing, left over, or of another shape.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    surplus = [name for name in weights if name not in wanted]
    shapes = [f"{name} is {tuple(weights[name].shape)}, the model's {tuple(value.shape)}"
              for name, value in wanted.items() if name in weights and weights[name].shape != value.shape]
    problems = ([f"other shapes: {_some(shapes)}"] if shapes else []) \
        + ([f"missing: {_some(missing)}"] if missing else []) + ([f"left over: {_some(surplus)}"] if surplus else [])
    if problems:
        raise UserError(f"{source}: not a checkpoint of this config's model ({'; '.join(problems)})")
    model.load_state_dict(weights)


def load_matching(model: nn.Module, weights: dict[str, torch.Tensor]) -> tuple[int, list[str]]:
    """Initialise ``model`` from the ``weights`` that have a place in it.

    Returns:
        how many tensors were taken, and the names that were not because their shape differs.
    """
    wanted = model.state_dict()
    taken = {n: v for n, v in weights.items() if n in wanted and v.shape == wanted[n].shape}
    model.load_state_dict(taken, strict=False)
    return len(taken), [n for n, v in weights.items() if n in wanted and v.shape != wanted[n].shape]


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
