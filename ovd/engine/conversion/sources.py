"""Tensors from files of other projects, without running the code that a pickle may carry."""

import argparse
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovd.engine.checkpoints import PLAIN_OBJECTS
from ovd.errors import UserError, nearest
from ovd.stores.array_pickle import PickledArray, load_arrays

# Where weights lie inside a checkpoint, in the order in which it is looked for them; one inside the other is followed
# until there are tensors.
NESTS = ("state_dict", "state", "module", "model", "blobs")
METADATA = "ovd_conversion"  # the one key of what a conversion writes about itself


@dataclass
class Source:
    """A file's tensors.

    Attributes:
        path: the file.
        weights: name -> tensor, on the CPU, as they are in the file.
        others: name -> what it is, for entries beside the tensors that are none.
        entry: the keys that led to the tensors.
        texts: configs that the file holds as text.
        recorded: what a conversion wrote about itself (``{}`` in other files).
        author: of a pickle for detectron2.
    """

    path: Path
    weights: dict[str, Tensor]
    others: dict[str, str] = field(default_factory=dict)
    entry: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    recorded: dict[str, Any] = field(default_factory=dict)
    author: str = ""


def read_source(path: str | os.PathLike, entry: str | None = None) -> Source:
    """The tensors of a checkpoint.

    Args:
        path: ``.safetensors``; ``.pkl``, dicts of arrays as detectron2 has them; anything else is read with
            ``torch.load(weights_only=True)``.
        entry: key under which the tensors are, instead of those of ``NESTS`` (``"model_ema"``).

    Raises: UserError when the file is missing, damaged, not safe to load, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        found = [str(other) for other in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such checkpoint" + (nearest(str(path), found) if found else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    contents = _unpack(load_arrays(path)) if path.suffix == ".pkl" else _read_torch(path)
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}, not a checkpoint")
    weights, keys = contents, ()
    if entry is not None:
        if not isinstance(contents.get(entry), Mapping):
            groups = [key for key, value in contents.items() if isinstance(value, Mapping)]
            raise UserError(f"{path}: has no tensors under {entry!r}{nearest(entry, groups)}")
        weights, keys = contents[entry], (entry,)
    while not any(isinstance(value, Tensor) for value in weights.values()):
        key = next((key for key in NESTS if isinstance(weights.get(key), Mapping)), None)
        if key is None:
            raise UserError(f"{path}: holds no weights (looked below {', '.join(NESTS)})")
        weights, keys = weights[key], (*keys, key)
    meta = contents.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    return Source(
        path, {str(name): value.detach() for name, value in weights.items() if isinstance(value, Tensor)},
        {str(name): type(value).__name__ for name, value in weights.items() if not isinstance(value, Tensor)},
        keys, tuple(text for key in ("cfg", "config") if isinstance(text := meta.get(key), str)),
        parse_record(meta.get(METADATA, contents.get(METADATA))), str(contents.get("__author__", "")))


def _read_torch(path: Path) -> Any:
    try:
        # a Namespace holds the arguments of the run, as a dict would
        with torch.serialization.safe_globals([*PLAIN_OBJECTS, argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it refers to {reason[1]}" if reason else "the pickle in it is damaged or holds objects"
        raise UserError(f"{path}: refused, because it is not a plain checkpoint: {what}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable checkpoint (cut off or damaged): get it again") from error


def _read_safetensors(path: Path) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            recorded = (file.metadata() or {}).get(METADATA)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); get it again") from error
    if not weights:
        raise UserError(f"{path}: holds no weights")
    return Source(path, weights, recorded=parse_record(recorded))


def parse_record(text: Any) -> dict[str, Any]:
    """What stands under ``METADATA`` in a file; ``{}`` for anything that is no record."""
    try:
        record = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _unpack(value: Any) -> Any:
    """Pickled arrays as tensors, in dicts of any depth."""
    if isinstance(value, PickledArray):
        if value.array is None:
            raise UserError("holds an array without contents")
        return torch.from_numpy(np.array(value.array, value.array.dtype.newbyteorder("=")))
    if isinstance(value, Mapping):
        return {key: _unpack(entry) for key, entry in value.items()}
    return value
