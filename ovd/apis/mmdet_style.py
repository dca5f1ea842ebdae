"""``init_detector`` and ``inference_detector`` as users of mmdet know them, for checkpoints of this project.

Models and results are mmdet's types (``DetDataSample`` with ``pred_instances``), and arrays are BGR, as mmdet has them.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import mmdet.apis
import numpy as np
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from torch import nn

from ovd.apis.devices import chosen_device
from ovd.engine.config import load_config, resolve_types
from ovd.engine.inference import load_detector
from ovd.errors import UserError


def init_detector(config: str | os.PathLike | Config, checkpoint: str | os.PathLike | None = None,
                  palette: str = "none", device: str = "cuda:0",
                  cfg_options: Mapping[str, Any] | None = None) -> nn.Module:
    """A detector of a config with a checkpoint's weights, in eval mode, as ``mmdet.apis.init_detector`` gives it.

    Unlike there, a checkpoint is read without running what a pickle may carry, and must fit the config in every tensor.

    Args:
        config: Path, or the config.
        checkpoint: Path; None for the weights that the config starts from.
        palette: ``model.dataset_meta["palette"]``, for mmdet's visualiser.
        device: ``"cuda:0"``, ``"cpu"``, or ``"auto"``.
        cfg_options: Changes of the config, by dotted keys.

    Returns:
        The model, with ``cfg`` and ``dataset_meta``. A detector of this project has ``set_class_head`` too.

    Raises:
        UserError: Files that are missing or do not fit; a device that is not there.
    """
    place = chosen_device(device)
    if isinstance(config, Config):
        cfg = config.copy()
        if cfg_options:
            cfg.merge_from_dict(dict(cfg_options))
    elif isinstance(config, str | os.PathLike):
        cfg = load_config(config, cfg_options or {})
    else:
        raise UserError(f"config is a {type(config).__name__}: give a path or a mmengine Config")
    resolve_types(cfg)
    rcnn = (cfg.model.get("test_cfg") or {}).get("rcnn")
    if rcnn is not None and "diagnostics" in rcnn:
        rcnn["diagnostics"] = False  # of annotated images
    if checkpoint is None:
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(place).eval()
    else:
        model = load_detector(cfg, checkpoint, place)
    model.cfg = cfg
    model.dataset_meta = {"classes": tuple(getattr(model, "class_names", ())),
                          "palette": "random" if palette == "none" else palette}
    return model


def inference_detector(model: nn.Module, imgs: str | np.ndarray | Sequence[str] | Sequence[np.ndarray],
                       test_pipeline: Compose | None = None, text_prompt: str | None = None,
                       custom_entities: bool = False) -> DetDataSample | list[DetDataSample]:
    """Detections of one image or of several, by ``mmdet.apis.inference_detector``.

    Args:
        model: Of :func:`init_detector`.
        imgs: Paths, or arrays in BGR.
        Others: See there.
    """
    return mmdet.apis.inference_detector(model, imgs, test_pipeline, text_prompt, custom_entities)
