"""From a config and a checkpoint to a model in one file."""

import os
from pathlib import Path

from mmengine.config import Config

from ovd.apis.evidence import prepare_steps
from ovd.apis.loading import classifiers, clip_of
from ovd.apis.model_file import ModelFile, plain_config
from ovd.engine.config import walk
from ovd.engine.inference import load_detector
from ovd.errors import UserError
from ovd.vocabulary.classes import canonical


def model_file(cfg: Config, checkpoint: str | os.PathLike, style: str = "vild") -> ModelFile:
    """The model of a config with a checkpoint's weights.

    Args:
        style: Of the prompts that words are put into.

    Raises:
        UserError: A detector without a vocabulary in CLIP's space; a checkpoint that does not fit.
    """
    model = load_detector(cfg, checkpoint)
    found = classifiers(model)
    if not found or found[0].head is None:
        raise UserError(f"{cfg.filename}: {type(model).__name__} has no classes in CLIP's space: give a ViLD with a "
                        "class head")
    head = found[0].head
    config = plain_config(cfg.model)
    if config.get("dense_clip") or config.get("cached_clip"):
        raise UserError(f"{cfg.filename}: dense_clip and cached_clip are of one vocabulary: leave them out")
    for _, part in walk(config):
        if "class_head" in part:
            part.update(class_head=None, split=None, data_root="", embed_dim=head.dim)
    config["train_cfg"] = None
    base = tuple(name for name in head.names if canonical(name) in found[0].base_names)
    steps = [plain_config(step) for step in prepare_steps(cfg)]
    return ModelFile(config, steps, model.state_dict(), head, base, clip_of(cfg, head), style,
                     notes={"config": Path(cfg.filename).name, "checkpoint": Path(checkpoint).name})
