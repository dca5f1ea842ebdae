"""Pretrained weights for a part of a model: whole or not at all, and read without running code.

mmengine's ``init_cfg=dict(type="Pretrained", checkpoint=...)`` logs tensors that do not match and goes on with random
ones, and it falls back on unpickling objects. Importing this module puts :class:`PretrainedWeights` in its place and
replaces mmengine's readers of files and downloads. :mod:`ovd.models` and :mod:`ovd.engine.runner` import it, so a
config only has to name a file::

    backbone=dict(type=ResNet, depth=50, style="caffe",
                  init_cfg=dict(type="Pretrained", checkpoint="pretrained/resnet50.safetensors"))

Names are torchvision's, which are mmdet's too. What the tensors do not tell must be set beside them: a network of caffe
style has the stride of a block on its first 1x1 convolution (``style="caffe"``) and takes BGR images in 0..255 minus
(103.939, 116.779, 123.68); torchvision's own want ``style="pytorch"`` and normalised RGB.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine import dist
from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader, get_external_models, get_torchvision_models
from torch import Tensor, nn

from ovd.engine.checkpoints import read_checkpoint
from ovd.errors import UserError, nearest

# The classifier of a backbone trained on ImageNet, which detectors do not have.
CLASSIFIER = ("fc.*",)


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file and of a module, by name."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file
    left_over: tuple[str, ...]  # in the file, not in the module
    reshaped: tuple[str, ...]  # in both, with different shapes
    overflowed: tuple[str, ...] = ()  # variances beyond the range of the file's half precision

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors loaded"]
        for what, names in (("missing", self.missing), ("left over", self.left_over), ("other shape", self.reshaped),
                            ("beyond half precision, taken as its largest number", self.overflowed)):
            if names:
                shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                parts.append(f"{len(names)} {what}: {shown}")
        return f"{self.source}: {'; '.join(parts)}"


def read_weights(source: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a file, by name, on the CPU and in the file's number format.

    Args:
        source: a .safetensors file, a PyTorch checkpoint (read with ``weights_only=True``), a http(s) address of
            either, or ``torchvision://NAME`` / ``open-mmlab://NAME`` for a model that mmengine knows by name.

    Raises:
        UserError: unknown, missing, damaged, or not plain tensors.
    """
    return read_checkpoint(Path(_local_copy(os.fspath(source))).expanduser())["state_dict"]


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike, allow: Sequence[str] = CLASSIFIER
) -> LoadReport:
    """Load ``weights`` into ``module``, whole or not at all.

    Counters of batch normalisation (``num_batches_tracked``), which many files lack, keep the module's values. A
    variance that a file in half precision has as infinite is taken as the largest number of that precision: networks
    on 0..255 inputs have such variances in their first layer, not much larger, and infinity would silence the channel.

    Args:
        module: receives the values, in its own number format.
        weights: as from :func:`read_weights`.
        source: where they come from, for messages.
        allow: patterns (``fnmatch``) of names that may be missing, left over or of another shape.

    Raises:
        UserError: tensors that are not allowed to do not match, or values that are not finite; the module is unchanged.
    """
    weights, overflowed = _within_range(weights, source)
    wanted = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    shared = [name for name in wanted if name in weights]
    reshaped = tuple(name for name in shared if weights[name].shape != wanted[name].shape)
    report = LoadReport(
        source=os.fspath(source),
        matched=tuple(name for name in shared if name not in reshaped),
        missing=tuple(name for name in wanted if name not in weights),
        left_over=tuple(name for name in weights if name not in wanted and not name.endswith("num_batches_tracked")),
        reshaped=reshaped,
        overflowed=tuple(name for name in overflowed if name in wanted),
    )
    refused = [
        name
        for name in (*report.missing, *report.left_over, *report.reshaped)
        if not any(fnmatch(name, pattern) for pattern in allow)
    ]
    if refused or not report.matched:
        raise UserError(
            f"{report}. These are not the weights of {type(module).__name__} as it is configured: give others, change "
            f'the model, or name what may differ in init_cfg, as allow=["{(refused or ["*"])[0]}"]'
        )
    module.load_state_dict({name: weights[name] for name in report.matched}, strict=False)
    return report


def _within_range(weights: Mapping[str, Tensor], source: str | os.PathLike) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with overflowed variances made finite, and the names of those."""
    finite, overflowed = {}, []
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            if value.dtype != torch.float16 or not name.endswith("running_var") or not (value > 0).all():
                raise UserError(f"{source}: {name} holds values that are not finite; get the weights again")
            value = value.clamp(max=torch.finfo(torch.float16).max)
            overflowed.append(name)
        finite[name] = value
    return finite, overflowed


@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class PretrainedWeights(PretrainedInit):
    """``init_cfg`` of a module that starts from a file; refuses a file of which not every tensor matches.

    Args:
        checkpoint: as the ``source`` of :func:`read_weights`.
        prefix: take only the tensors whose names begin with it, and cut it off (``"backbone."`` of a detector).
        map_location: accepted for mmengine's sake; tensors go where the module is.
        allow: as in :func:`load_weights`.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = "cpu",
        allow: Sequence[str] = CLASSIFIER,
    ):
        super().__init__(checkpoint, prefix, map_location)
        self.allow = (allow,) if isinstance(allow, str) else tuple(allow)

    def __call__(self, module: nn.Module) -> None:
        weights, source = read_weights(self.checkpoint), os.fspath(self.checkpoint)
        if self.prefix is not None:
            prefix = self.prefix.rstrip(".") + "."
            weights = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
            source = f"{source} ({prefix}*)"
        print_log(str(load_weights(module, weights, source, self.allow)), logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


def load_from_source(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine's ``CheckpointLoader`` calls for files and addresses: a checkpoint with ``state_dict``.

    Arguments and errors as for :func:`read_weights`; ``map_location`` as for ``torch.load``, a device or its name.
    """
    checkpoint = read_checkpoint(Path(_local_copy(os.fspath(filename))).expanduser())
    if map_location is not None and not callable(map_location):
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value.to(map_location) for name, value in weights.items()}
    return checkpoint


CheckpointLoader.register_scheme(
    ("", "http://", "https://", "torchvision://", "open-mmlab://", "openmmlab://"), load_from_source, force=True
)


def _local_copy(source: str) -> str:
    """The path of a file; an address or a model's name is downloaded to torch.hub's folder first, by one process."""
    scheme, _, name = source.partition("://")
    if not name:
        return source
    if scheme in ("torchvision", "open-mmlab", "openmmlab"):
        known = get_torchvision_models() if scheme == "torchvision" else get_external_models()
        if name not in known:
            raise UserError(f"{source}: no such model" + nearest(name, known))
        source = known[name]
    elif scheme not in ("http", "https"):
        raise UserError(f"{source}: weights come from a file, http(s)://, torchvision:// or open-mmlab://")
    target = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(source).path).name)
    if dist.get_local_rank() == 0 and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, os.fspath(target), progress=os.isatty(2))
        except (URLError, OSError) as error:
            raise UserError(f"{source}: cannot be downloaded ({error}); fetch it and name the file") from error
    dist.barrier()
    return os.fspath(target)
