"""Whether a config uses the backbone of a checkpoint as it was trained.

Its style and its images are not in the tensors (see :mod:`~ovd.engine.conversion.conventions`): a detector that was
trained with ``model.backbone.style=caffe`` loads into a config without it, and computes something else.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ovd.engine.conversion import conventions
from ovd.engine.conversion.conventions import Convention
from ovd.engine.conversion.sources import METADATA, parse_record
from ovd.errors import UserError
from ovd.stores.manifest import canonical_json


def usage_record(model: Mapping[str, Any]) -> dict[str, str]:
    """What a checkpoint's ``meta`` says about how ``model`` (of a config) uses its backbone; ``{}`` for no ResNet."""
    used = conventions.of_config(model)
    return {METADATA: canonical_json(used.record())} if used.style else {}


def recorded_usage(path: str | os.PathLike, contents: Mapping[str, Any]) -> Convention:
    """How the checkpoint's backbone is to be used, by what training or a conversion recorded in it.

    Args:
        path: the file.
        contents: as :func:`ovd.engine.checkpoints.read_checkpoint` returns them.
    """
    if Path(path).suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            meta: Mapping[str, Any] = file.metadata() or {}
    else:
        meta = contents.get("meta") or {}
    texts = [meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)]
    return conventions.of_source("", texts, parse_record(meta.get(METADATA)))


def check_usage(path: str | os.PathLike, contents: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse a config whose ``model`` would use the checkpoint's backbone in another way than is recorded in it.

    Raises: UserError
    """
    recorded, asked = recorded_usage(path, contents), conventions.of_config(model)
    if recorded.style is None or asked.style is None:
        return
    if differences := recorded.differences(replace(asked, channels=recorded.channels and asked.channels)):
        raise UserError(f"{path}: its {'; its '.join(differences)} ({recorded.evidence}). It would load and compute "
                        "something else: set model.backbone.style and model.data_preprocessor as they were in training "
                        f"(--cfg-options model.backbone.style={recorded.style})")
