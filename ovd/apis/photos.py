"""Detectors whose parts have public weights: any words on any photos, without training and without a checkpoint."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights
from tqdm import tqdm

from ovd.apis.evidence import prepare_steps
from ovd.apis.lessons import ALL_RULES, Lessons
from ovd.apis.parts import Parts
from ovd.apis.words import Words
from ovd.clip.text import class_embeddings, style_encoder
from ovd.clip.towers import OPENAI_ALIASES, OPENAI_NAMES, ClipModel
from ovd.engine.config import resolve_types
from ovd.engine.preflight import check_inputs, find_inputs
from ovd.engine.public_weights import Download, NotFetched, not_fetched, of_hugging_face, of_torch, photos_downloads
from ovd.errors import UserError, nearest
from ovd.fewshot.calibration import Calibration
from ovd.fewshot.combination import combine, lam_of_shots
from ovd.fewshot.detection.trust import TRUSTED
from ovd.models.crop_clip import CropClip
from ovd.shipped import CONFIGS
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes
from ovd.vocabulary import classes as known_classes
from ovd.vocabulary.prompts import get_style

PHOTOS = "photos"
PHOTOS_CONFIG = CONFIGS / "clip_on_crops" / "photos.py"
DATASETS = {"coco": "COCO_NAMES", "lvis": "LVIS_NAMES", "voc": "VOC_NAMES", "objects365": "OBJECTS365_V2_NAMES"}


def takes_no_checkpoint(cfg: Config) -> bool:
    """Whether a config's model has its weights from elsewhere."""
    kind = (cfg.get("model") or {}).get("type")
    return kind in (CropClip, "CropClip")


def from_public_weights(cfg: Config, device: torch.device) -> Parts:
    """A config's model with the weights that it names; they are fetched where they are not here yet.

    Raises:
        UserError: Weights that cannot be had: what, from where, into which folder.
    """
    resolve_types(cfg)
    check_inputs(find_inputs(cfg, ("model",)))
    init_default_scope(cfg.get("default_scope", "mmdet"))
    downloads = needed_downloads(cfg)
    if missing := [download for download in downloads if not download.is_here]:
        print(f"downloading, once: {'; '.join(map(str, missing))}", file=sys.stderr)
    try:
        model: CropClip = MODELS.build(cfg.model)
    except NotFetched as error:
        raise not_fetched(downloads, error.reason) from None
    model.to(device)
    model.clip.model.to(device)  # its text tower is no part of the detector
    clip = replace(model.clip, device=device)
    own = _own_classes(cfg, clip)
    model.set_class_head(own)
    words = Words(lambda: clip, cfg.get("prompts", "vild"))
    return Parts(model, prepare_steps(cfg), own, own, words, CropLessons(own, **cfg.get("boxes", {})),
                 Path(cfg.filename).name)


def needed_downloads(cfg: Config) -> list[Download]:
    """What a config's model fetches, as far as it is known."""
    found = []
    weights = cfg.model.proposer.get("weights")
    if weights in [one.name for one in MaskRCNN_ResNet50_FPN_V2_Weights]:
        one = MaskRCNN_ResNet50_FPN_V2_Weights[weights]
        found.append(of_torch("boxes and masks", one.url, round(one.meta["_file_size"])))
    repository = _repository(cfg.model.clip.pretrained)
    if repository is not None:
        found.append(of_hugging_face("words", repository))
    default = {download.address: download for download in photos_downloads()}
    return [default.get(download.address, download) for download in found]


def _repository(pretrained: str) -> str | None:
    """Where open_clip has the weights of a CLIP from; None for a file, and where it does not say."""
    name, _, tag = pretrained.partition(":")
    if pretrained in OPENAI_ALIASES:
        name, tag = OPENAI_ALIASES[pretrained], "openai"
    if pretrained.startswith("hf-hub:"):
        return tag
    known = open_clip.list_pretrained_tags_by_model(name)
    tag = tag or next(iter(known), "")
    published = open_clip.get_pretrained_cfg(OPENAI_NAMES.get(name, name) if tag == "openai" else name, tag)
    return published.get("hf_hub") or None if tag in known else None


class CropLessons(Lessons):
    """How classes from boxes and from names compare, where no dataset says it.

    Crops of one class are nearer to each other than to their name, so as they come, classes from boxes would win
    everywhere. Here a region is as likely of such a class as of the best of the model's own classes when its cosine to
    the boxes is ``tie``, and gains ``slope`` logits a cosine from there; with words, both logits are averaged, boxes
    counting the more the more there are.

    Args:
        own: The model's own classes.
        tie, slope: Not learned from data; see docs/photos_model.md.
    """

    def __init__(self, own: ClassHead, tie: float = 0.75, slope: float = 40.0) -> None:
        super().__init__()
        if not (0 < tie < 1 and slope > 0):
            raise UserError(f"boxes: tie {tie} and slope {slope}: give a cosine between 0 and 1, and logits above 0")
        self._own, self._tie, self._slope = own, tie, slope

    def head(self, words: ClassHead | None, boxes: ClassHead | None, k: int, rule: str, method: str) -> ClassHead:
        """As :meth:`Lessons.head`; ``"trusted"`` is ``"logits"``."""
        if rule not in ALL_RULES:
            raise UserError(f"unknown rule {rule!r}{nearest(rule, ALL_RULES)}")
        if boxes is None:
            return combine(words, None)
        boxes = self._levelled(boxes)
        return combine(words, boxes, "logits" if rule == TRUSTED else rule, lam=lam_of_shots(k))

    def _levelled(self, boxes: ClassHead) -> ClassHead:
        centre_D = torch.nn.functional.normalize(boxes.weights[0, :int(boxes.counts_C()[0])], dim=-1).mean(dim=0)
        best = float(self._own.logits(centre_D[None]).max())
        gain = self._slope / boxes.scale  # logits are `scale` times a cosine, and a bias
        return Calibration(gain, best - self._slope * self._tie - gain * float(boxes.bias_C()[0])).apply(boxes)


def _own_classes(cfg: Config, clip: ClipModel) -> ClassHead:
    """The config's class head, or its dataset's names in its prompts, which are embedded once and kept in a cache."""
    if cfg.get("class_head"):
        path = Path(cfg.get("data_root") or "", cfg.class_head)
        try:
            return load_classes(path).check(clip=clip.fingerprint)
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
    name, style = cfg.get("classes"), cfg.get("prompts", "vild")
    if name not in DATASETS:
        raise UserError(f"{cfg.filename}: classes {name!r}{nearest(str(name), DATASETS)}; or set class_head")
    kept = _cache() / f"{name}_{style}_{clip.fingerprint[7:23]}.safetensors"
    if kept.is_file():
        try:
            return ClassHead.load(kept).check(clip=clip.fingerprint)
        except UserError:
            pass  # damaged: made anew
    names = getattr(known_classes, DATASETS[name])
    prompts = get_style(style)
    with tqdm(total=len(names), desc=f"names of {name}", unit=" classes", disable=None) as bar:
        head = class_embeddings(clip, names, prompts, encode=style_encoder(clip, prompts),
                                progress=lambda texts: bar.update())
    head = head.as_cosine() if head.norm == "linear" else head
    if not clip.untrained:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            head.save(kept)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
    return head


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ovd" / "class_heads"
