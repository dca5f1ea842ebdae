"""A trained detector from its config and checkpoint, ready to look at images."""

import os
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn

from ovd.engine.checkpoints import load_exactly, read_checkpoint
from ovd.engine.config import registered, walk
from ovd.engine.conversion.usage import check_usage
from ovd.errors import UserError


def load_detector(cfg: Config, checkpoint: str | os.PathLike, device: torch.device | str = "cpu") -> nn.Module:
    """Build the model of a config and load a checkpoint into it, tensor by tensor; in eval mode.

    Weights that the config would start training from are not read.

    Raises:
        UserError: No model in the config, a checkpoint that is unsafe to read or that does not fit.
    """
    if not cfg.get("model"):
        raise UserError(f"{cfg.filename}: the config has no model")
    for _, part in walk(cfg.model):
        if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
            part["init_cfg"] = None
    contents = read_checkpoint(checkpoint)
    check_usage(checkpoint, contents, cfg.model)
    with registered(cfg):
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).eval()
    load_exactly(model, contents["state_dict"], Path(checkpoint))
    return model
