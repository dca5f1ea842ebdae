"""Regions of images, their crops and embeddings: from a store, from a CLIP, or from both, which are then compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovd.clip.crops import CropRecipe
from ovd.clip.device_crops import DeviceCropper
from ovd.clip.levels import Blocks, Globals, Objects
from ovd.clip.regions import RegionEncoder
from ovd.clip.text import class_embeddings
from ovd.clip.towers import ClipModel, load_clip
from ovd.data.annotations import Annotation
from ovd.data.boxes import corners
from ovd.engine.preflight import check_pair
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes
from ovd.stores.shards import RegionStore
from ovd.vocabulary.prompts import get_style
from pipelines.show.findings import Findings
from pipelines.show.request import Dataset, Request

USUAL_SIDE = 224  # pixels of a crop where no CLIP says how many


@dataclass(frozen=True)
class Found:
    """The regions of an image: boxes ``[N, 4]`` xyxy, best first, and unit embeddings ``[N, D]`` where stored."""

    boxes: np.ndarray
    embeddings: np.ndarray | None = None


@dataclass
class Regions:
    """Where the regions of images come from.

    Attributes:
        store: None for annotated boxes.
        clip: None where none is loaded.
        head: the classes.
    """

    data: Dataset
    store: RegionStore | None
    clip: ClipModel | None
    head: ClassHead
    encoder: RegionEncoder | None
    cropper: Any

    @classmethod
    def read(cls, request: Request, data: Dataset, findings: Findings, *, store: str | Path | None, annotated: bool,
             class_head: str | Path | None, pretrained: str | None, model: str | None, no_clip: bool,
             device: str) -> "Regions":
        """As the options and the config say.

        Raises:
            UserError: Nothing says which CLIP; a head of another CLIP or width than the store's.
        """
        opened = None if annotated else _open(request, store)
        section: Mapping[str, Any] = request.cfg.get("regions") or {}
        pretrained = pretrained or section.get("pretrained")
        model = model or section.get("model")
        has_rows = opened is not None and opened.kind == "regions"
        if no_clip and not has_rows:
            raise UserError("--no-clip: shows the embeddings of a store of regions, and there is none; give it with "
                            "--store, or leave --no-clip out")
        if not no_clip and not pretrained:
            raise UserError("nothing says which CLIP: pass --pretrained (shapes, ViT-B/32, a file), a CONFIG, or "
                            "--no-clip for a store's own embeddings")
        clip = None
        if not no_clip:
            from ovd.engine.launch import choose_device

            clip = load_clip(pretrained, model=model, device=choose_device(device))
            made = opened.manifest.inputs.get("clip") if has_rows else None
            if made and made != clip.fingerprint:
                findings.wrong.append(f"{opened.path}: was made with another CLIP ({made[:15]}) than {pretrained} "
                                      f"({clip.fingerprint[:15]})")
        head = _head(request, data, class_head, clip)
        if has_rows and class_head_path(request, class_head):
            check_pair(class_head_path(request, class_head), head, opened.path, opened)
        encoder = _encoder(opened, section, clip) if clip else None
        cropper = encoder.cropper if encoder else DeviceCropper(_recipe(opened, section), USUAL_SIDE)
        return cls(data, opened, clip, head, encoder, cropper)

    @property
    def images(self) -> list[int]:
        """Images that have regions."""
        if self.store is None:
            return [i for i, found in self.data.objects.items() if any(not a.iscrowd for a in found)]
        return self.store.image_ids.tolist()

    def of(self, image_id: int) -> Found:
        """The regions of an image, those of the highest scores first."""
        if self.store is None:
            return Found(corners([a.bbox for a in self.data.objects[image_id] if not a.iscrowd]).astype(np.float32))
        stored = self.store.view(image_id)
        order = np.argsort(-stored.scores, kind="stable")
        return Found(stored.boxes[order], None if stored.embeddings is None else stored.embeddings[order])

    def described(self) -> str:
        """Where they come from, in a line."""
        where = f"regions of {self.store.path}" if self.store else f"annotated boxes of {self.data.path.name}"
        recipe = self.cropper.recipe
        scales = " and ".join(f"{scale:g}" for scale in recipe.scales)
        return f"{where}, crops of kind {recipe.kind} at {scales} x, {self.cropper.side} pixels"


def class_head_path(request: Request, given: str | Path | None) -> Path | None:
    """The class head file or registry that is named, else the config's where it exists."""
    if given:
        return Path(given)
    path = request.path("class_head")
    return path if path is not None and path.exists() else None


def names_of(found: list[Annotation], data: Dataset) -> list[str]:
    """Class names of the objects that are no crowds, as :meth:`Regions.of` has them."""
    return [data.names[a.category_id] for a in found if not a.iscrowd]


def _open(request: Request, store: str | Path | None) -> RegionStore | None:
    if store:
        return RegionStore(store)
    named = request.path("region_store" if request.subset == "train" else "region_store_val")
    return RegionStore(named) if named is not None and named.exists() else None


def _head(request: Request, data: Dataset, given: str | Path | None, clip: ClipModel | None) -> ClassHead:
    path = class_head_path(request, given)
    if path is not None:
        return load_classes(path)
    if clip is None:
        raise UserError("--no-clip: the classes need a class head file then; pass --class-head")
    print(f"no class head: embedding the {len(data.names)} class names of {data.path.name}")
    return class_embeddings(clip, list(dict.fromkeys(data.names.values())), get_style("vild"))


def _recipe(store: RegionStore | None, section: Mapping[str, Any]) -> CropRecipe:
    """How the store's crops were made, else what the config says, else ViLD's."""
    made = store.manifest.config if store is not None and store.kind == "regions" else {}
    if made.get("what") in ("blocks", "globals"):
        return CropRecipe("warp", (1.0,), "nearest")
    recipe = dict(made.get("recipe") or section.get("recipe") or {})
    recipe.pop("resize", None)
    return CropRecipe(**recipe)


def _encoder(store: RegionStore | None, section: Mapping[str, Any], clip: ClipModel) -> RegionEncoder:
    made = store.manifest.config if store is not None and store.kind == "regions" else section
    if made.get("what") == "blocks":
        return Blocks(made["side"]).encoder(clip)
    if made.get("what") == "globals":
        return Globals().encoder(clip)
    return Objects(store, _recipe(store, section), None, made.get("masked_attention", False),
                   made.get("upsample", 1)).encoder(clip)


def similarities(head: ClassHead, embeddings_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of each embedding with each class, and what share of it each class has: float32 ``[N, C]`` each.

    The first is the cosine, where the head compares by cosines; else its logit.
    """
    rows = torch.from_numpy(np.array(embeddings_ND, np.float32))
    logits = head.logits(rows)
    bias = 0 if head.bias is None else head.bias
    cosines = (logits - bias) / head.scale if head.norm == "cosine" else logits
    return cosines.numpy(), head.probabilities(rows).numpy()
