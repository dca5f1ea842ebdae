"""From a config and a checkpoint to a model in one file."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from ovd.apis.evidence import prepare_steps
from ovd.apis.lessons import DrawBase, learn
from ovd.apis.loading import classifiers, clip_of
from ovd.apis.model_file import ModelFile, plain_config
from ovd.engine.config import walk
from ovd.engine.inference import load_detector
from ovd.errors import UserError
from ovd.vocabulary.classes import canonical
from ovd.vocabulary.prompts import get_style


def model_file(cfg: Config, checkpoint: str | os.PathLike, *, style: str = "vild", draw_base: DrawBase | None = None,
               image_root: str | os.PathLike = "", shots: Sequence[int] = (1, 2, 3, 5, 10),
               methods: Sequence[str] = ("prototype",), images: int = 200,
               device: torch.device | str = "cpu") -> ModelFile:
    """The model of a config with a checkpoint's weights.

    Args:
        style: Of the prompts that words are put into.
        draw_base: Boxes of base classes, from which it is learned how classes of boxes compare with names; None to
            leave that out. The other arguments are of :func:`ovd.apis.lessons.learn`.

    Raises:
        UserError: A detector without a vocabulary in CLIP's space, or whose scores are of one vocabulary; a checkpoint
            that does not fit; an unknown style.
    """
    get_style(style)
    for part in ("dense_clip", "cached_clip"):
        if (cfg.get("model") or {}).get(part):
            raise UserError(f"{cfg.filename}: {part} is of one vocabulary: leave it out (--cfg-options "
                            f"model.{part}=None)")
    model = load_detector(cfg, checkpoint, device)
    found = classifiers(model)
    if not found or found[0].head is None:
        raise UserError(f"{cfg.filename}: {type(model).__name__} has no classes in CLIP's space: give a ViLD with a "
                        "class head")
    head = found[0].head
    base = tuple(name for name in head.names if canonical(name) in found[0].base_names)
    clip = clip_of(cfg, head)
    if not clip["pretrained"]:
        raise UserError(f"{cfg.filename}: names no CLIP (regions.pretrained), which words need")
    lessons = [] if draw_base is None else learn(model, cfg, head.select(base), draw_base, image_root, shots=shots,
                                                 methods=methods, images=images)
    config = plain_config(cfg.model)
    for _, part in walk(config):
        if "class_head" in part:
            part.update(class_head=None, split=None, data_root="", embed_dim=head.dim)
        if "diagnostics" in part:
            part["diagnostics"] = False  # of annotated images
    config["train_cfg"] = None
    return ModelFile(config, [plain_config(step) for step in prepare_steps(cfg)], model.state_dict(), head, base, clip,
                     style, lessons, {"config": Path(cfg.filename).name, "checkpoint": Path(checkpoint).name})
