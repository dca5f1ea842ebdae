"""A detector in one file: weights, how the model is built and images are prepared, its classes, its CLIP, lessons.

The file is safetensors; what is no tensor is json in its metadata. Loading one runs no code of the file's: a type in it
must be a class that mmdet or this project registers, and no other file is opened for it.
"""

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from mmdet.registry import MODELS, TASK_UTILS, TRANSFORMS
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.model import revert_sync_batchnorm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ovd.engine.checkpoints import load_exactly
from ovd.engine.config import walk
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest, canonical_json, publish

KIND = "model"
_METADATA = "ovd_model"  # the one metadata key of the file: several would be written in random order
_SCHEMA = 1
_PACKAGES = ("ovd", "mmdet", "mmcv", "mmengine")
_OPERATORS = ("nms", "soft_nms")  # types that name a function
_CONFIGS = (".py", ".json", ".yaml", ".yml")  # files that some parts of detectors are built from, and that are run
_HEAD, _MODEL, _TUPLE = "class_head.", "model.", "(tuple)"


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What such a file holds.

    Attributes:
        model: The model's config as plain json; types are dotted names.
        pipeline: Steps that prepare an image after it is loaded, likewise.
        weights: The model's state dict.
        head: The model's own classes.
        base_names: Those of them that it was trained on.
        clip: ``pretrained`` and ``model`` of :func:`ovd.clip.towers.load_clip`, and the ``fingerprint``; empty for a
            detector without one.
        style: Of the prompts that words are put into.
        lessons: Of :func:`ovd.apis.lessons.learn`; empty for none.
        notes: Where it comes from, for people.
    """

    model: Mapping[str, Any]
    pipeline: list[Mapping[str, Any]]
    weights: Mapping[str, Tensor]
    head: ClassHead
    base_names: tuple[str, ...]
    clip: Mapping[str, Any] = field(default_factory=dict)
    style: str = "vild"
    lessons: Sequence[Mapping[str, Any]] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike, config: Mapping[str, Any] | None = None,
             inputs: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Manifest:
        """Write the file and its manifest; weights of two dimensions or more become half precision.

        The same model gives the same bytes.
        """
        meta, tensors = self.head.parts()
        tensors = {f"{_HEAD}{name}": tensor for name, tensor in tensors.items()}
        for name, tensor in self.weights.items():
            half = tensor.is_floating_point() and tensor.ndim > 1
            tensors[f"{_MODEL}{name}"] = tensor.detach().cpu().to(torch.float16 if half else tensor.dtype).contiguous()
        record = {"schema": _SCHEMA, "model": self.model, "pipeline": self.pipeline, "class_head": meta,
                  "base_names": list(self.base_names), "clip": dict(self.clip), "style": self.style,
                  "lessons": list(self.lessons), "notes": dict(self.notes)}
        data = safetensors.torch.save(tensors, {_METADATA: canonical_json(record)})
        manifest = Manifest(KIND, "export-model", dict(config or {}), dict(inputs or {}), flags=dict(flags or {}),
                            counts={"classes": len(self.head), "tensors": len(self.weights), "bytes": len(data)})
        with publish(path, manifest) as (temporary, _):
            temporary.write_bytes(data)
        return manifest

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ModelFile":
        """Read a file that :meth:`save` wrote.

        Raises:
            UserError: Missing, damaged, or something else.
        """
        path = Path(path)
        try:
            with safe_open(path, "pt") as file:
                record = json.loads((file.metadata() or {})[_METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if record["schema"] != _SCHEMA:
                raise ValueError("written by a later version of ovd")
            head = ClassHead.of_parts(record["class_head"], _under(_HEAD, tensors))
            weights = {name: value.float() if value.dtype == torch.float16 else value
                       for name, value in _under(_MODEL, tensors).items()}
            return cls(record["model"], list(record["pipeline"]), weights, head, tuple(record["base_names"]),
                       record["clip"], record["style"], record["lessons"], record["notes"])
        except FileNotFoundError:
            raise UserError(f"{path}: no such model file; ovd export-model writes one") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: is not a model in one file ({type(error).__name__}: {str(error)[:100]}); a "
                            "checkpoint is given after its config, and ovd export-model makes one file of both"
                            ) from error

    def build(self, path: str | os.PathLike) -> nn.Module:
        """The model with its weights and classes, in eval mode on the CPU.

        Args:
            path: Of the file, for messages.

        Raises:
            UserError: A type that is none of a model; weights that do not fit.
        """
        cfg = ConfigDict(_checked(self.model, path))
        model = revert_sync_batchnorm(MODELS.build(cfg)).eval()
        load_exactly(model, dict(self.weights), path)
        return model

    def steps(self, path: str | os.PathLike) -> list[dict[str, Any]]:
        """The pipeline's steps, ready to be built; errors as of :meth:`build`."""
        return [_checked(step, path) for step in self.pipeline]


def plain_config(value: Any) -> Any:
    """A section of a config as plain json: classes by their dotted names, nothing that starts from other weights."""
    if isinstance(value, LazyObject | LazyAttr):
        value = value.build()
    if isinstance(value, Config | dict):
        return {str(key): None if key == "init_cfg" else plain_config(value.get(key)) for key in value}
    if isinstance(value, list):
        return [plain_config(one) for one in value]
    if isinstance(value, tuple):  # json knows lists alone, some parts want the one and some the other
        return {_TUPLE: [plain_config(one) for one in value]}
    if inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise UserError(f"the config holds a {type(value).__name__}, which has no place in a file: {str(value)[:60]}")


def _checked(config: Any, path: str | os.PathLike) -> Any:
    """A copy whose types are classes of models and transforms, and which starts from no other file."""
    config = _with_tuples(config)
    for where, part in walk(config):
        for key, value in part.items():
            if isinstance(value, str) and value.strip().lower().endswith(_CONFIGS):
                raise UserError(f"{path}: {where or 'model'}.{key} is {value!r}: a model in one file is built from no "
                                "other file")
        if "type" in part:
            part["type"] = _type(part["type"], f"{path}: {where or 'model'}")
        if "init_cfg" in part:
            part["init_cfg"] = None
    return config


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        if _TUPLE in value:
            return tuple(map(_with_tuples, value[_TUPLE]))
        return {key: _with_tuples(one) for key, one in value.items()}
    return list(map(_with_tuples, value)) if isinstance(value, list) else value


def _type(name: Any, where: str) -> Any:
    registered = {known for registry in (MODELS, TASK_UTILS, TRANSFORMS) for known in _all_modules(registry)}
    if isinstance(name, str):
        if "." not in name and (name in _OPERATORS or any(r.get(name) for r in (MODELS, TASK_UTILS, TRANSFORMS))):
            return name
        module, _, attribute = name.rpartition(".")
        if module.split(".")[0] in _PACKAGES:
            try:
                found = getattr(import_module(module), attribute)
            except (ImportError, AttributeError):
                found = None
            if inspect.isclass(found) and (found in registered or issubclass(found, nn.Module)):
                return found
    raise UserError(f"{where}.type is {name!r}, which is no part of a detector that this version knows")


def _all_modules(registry: Any) -> set[Any]:
    found = set(registry.module_dict.values())
    return found | (_all_modules(registry.parent) if registry.parent is not None else set())


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}
