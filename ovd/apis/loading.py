"""``load``: a detector from the demo model, from one file, from a config and a checkpoint, or from a recipe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ovd.apis.detector import Detector
from ovd.apis.devices import chosen_device
from ovd.apis.evidence import prepare_steps
from ovd.apis.lessons import Lessons
from ovd.apis.model_file import ModelFile
from ovd.apis.parts import Parts
from ovd.apis.photos import PHOTOS, PHOTOS_CONFIG, from_public_weights, takes_no_checkpoint
from ovd.apis.recipes import is_recipe, trained_detector
from ovd.apis.words import Words
from ovd.clip.towers import load_clip
from ovd.engine.config import load_config, parse_options, resolve_types
from ovd.engine.inference import load_detector
from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.shipped import PRETRAINED, located
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.classes import canonical

DEMO = "demo"
DEMO_FILE = PRETRAINED / "shapes_vild.safetensors"


def load(model: str | os.PathLike = DEMO, checkpoint: str | os.PathLike | None = None, *, device: str = "auto",
         vocabulary: Sequence[str] | ClassHead | str | os.PathLike | None = None,
         options: Sequence[str] | Mapping[str, Any] = (), data_root: str | os.PathLike | None = None) -> Detector:
    """Load a detector.

    Args:
        model: ``"demo"``, the project's own small model; ``"photos"``, any words on any photos by public weights, which
            are downloaded once; a file of ``ovd export-model``; a config, with ``checkpoint``; or a recipe that was
            run, whose (first) detector is taken from its work directory.
        checkpoint: Of the config's model.
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        vocabulary: As for :meth:`Detector.set_vocabulary`; None for the model's own classes (LVIS's 1203 for a config
            of LVIS).
        options, data_root: Of a config, as ``--cfg-options`` and ``--data-root`` give them.

    Raises:
        UserError: Files that are missing, damaged or do not belong together; a device that is not there.

    >>> import ovd
    >>> detector = ovd.load("demo", device="cpu", vocabulary=["dotted red star", "plain blue ring"])
    >>> detector
    Detector(shapes_vild.safetensors: 2 classes: dotted red star, plain blue ring)
    """
    place = chosen_device(device)
    if model == DEMO and not DEMO_FILE.is_file():
        raise UserError(f"{DEMO_FILE}: the demo model is not there: install the project again, or name a model file")
    path = {DEMO: DEMO_FILE, PHOTOS: PHOTOS_CONFIG}.get(str(model), located(model))
    if path.suffix == ".safetensors":
        if checkpoint is not None:
            raise UserError(f"{path}: is a model in one file, which takes no checkpoint beside it")
        parts = from_file(path, place)
    elif is_recipe(path) and checkpoint is None:
        training = trained_detector(path)
        given = options if isinstance(options, Mapping) else parse_options(options)
        cfg = load_config(training.config, {**parse_options(training.options), **given},
                          data_root or training.data_root)
        parts = from_config(cfg, training.checkpoint, place)
    else:
        cfg = load_config(path, options, data_root)
        if takes_no_checkpoint(cfg):
            if checkpoint is not None:
                raise UserError(f"{path}: has its weights from elsewhere: leave out {checkpoint}")
            parts = from_public_weights(cfg, place)
        elif checkpoint is None:
            raise UserError(f"{path}: a config needs its checkpoint: ovd.load({str(path)!r}, CHECKPOINT)")
        else:
            parts = from_config(cfg, checkpoint, place)
    detector = Detector(parts)
    if vocabulary is not None:
        detector.set_vocabulary(vocabulary)
    return detector


def from_file(path: Path, device: torch.device) -> Parts:
    """A model in one file."""
    file = ModelFile.load(path)
    model = file.build(path)
    for classifier in classifiers(model):
        classifier.base_names = frozenset(map(canonical, file.base_names))
    model.set_class_head(file.head)
    words = words_of(file.clip, device, file.style) if file.clip.get("pretrained") else None
    return Parts(model.to(device), file.steps(path), file.head, trained_head(model), words, Lessons(file.lessons),
                 path.name)


def from_config(cfg: Config, checkpoint: str | os.PathLike, device: torch.device) -> Parts:
    """A config's model with a checkpoint's weights."""
    resolve_types(cfg)
    model = load_detector(cfg, checkpoint, device)
    name = Path(cfg.filename).name
    for needed in ("evidence", "detect", "set_class_head"):
        if not hasattr(model, needed):
            raise UserError(f"{name}: {type(model).__name__} takes no vocabulary: give a ViLD or a FCOS detector of "
                            "this project, or use ovd.init_detector")
    clip = clip_of(cfg, own_head(model))
    words = words_of(clip, device) if classifiers(model) and clip.get("pretrained") else None
    return Parts(model, prepare_steps(cfg), own_head(model), trained_head(model), words, Lessons(), name)


def own_head(model: nn.Module) -> ClassHead | None:
    """The classes that a model knows after it is loaded."""
    heads = [classifier.head for classifier in classifiers(model)]
    if heads:
        return heads[0]
    return None if getattr(model, "outgrew_rows", False) else model.base_head()


def trained_head(model: nn.Module) -> ClassHead | None:
    """Those of the classes that the detector was trained on; None outside CLIP's space, or where none of them is."""
    for classifier in classifiers(model):
        base = [name for name, is_base in zip(classifier.names, classifier.is_base.tolist()) if is_base]
        return classifier.head.select(base) if base else None
    return None


def classifiers(model: nn.Module) -> list[CosineClassifier]:
    """All of a model's classifiers that go by CLIP's space."""
    return [module for module in model.modules() if isinstance(module, CosineClassifier)]


def clip_of(cfg: Config, head: ClassHead | None) -> dict[str, Any]:
    """Which CLIP a config's detector was trained with: ``pretrained``, ``model``, ``fingerprint``."""
    regions = cfg.get("regions") or {}
    return {"pretrained": regions.get("pretrained"), "model": regions.get("model"),
            "fingerprint": None if head is None else head.stats.get("clip")}


def words_of(clip: Mapping[str, Any], device: torch.device, style: str = "vild") -> Words:
    """What embeds words with a CLIP (see :func:`clip_of`), which is loaded when it is first needed."""
    return Words(lambda: load_clip(clip["pretrained"], model=clip.get("model"), device=device), style,
                 clip.get("fingerprint"))
