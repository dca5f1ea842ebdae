"""Support vectors: the embeddings of shots, one unit row a box, from which class heads are made.

Shapes: S shots of all classes, C classes, D embedding width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import ClipModel
from ovd.data.rgb import load_rgb
from ovd.errors import UserError, nearest
from ovd.fewshot.shots import Shot, ShotSet
from ovd.fewshot.sources import from_supports
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.classes import canonical


@dataclass(frozen=True, eq=False)
class SupportVectors:
    """The vectors of shots, class by class in the order of the shots.

    Attributes:
        names: The classes.
        vectors_SD: float32, made unit rows here.
        class_of_S: int64, positions in ``names``.
        space: What :attr:`ClassHead.stats` says of the embedding space: ``{"clip": fingerprint}``, and ``"space"``
            where it is a detector's own.
        provenance: For each class, which boxes these are and how they were embedded.
        scale: Of the heads that are made, the CLIP's own, so that they stand beside classes of its text.
        bias: Of each class of these heads, the CLIP's own where it has one (SigLIP).

    Raises:
        UserError: A class without a vector.
    """

    names: tuple[str, ...]
    vectors_SD: Tensor
    class_of_S: Tensor
    space: Mapping[str, Any] = field(default_factory=dict)
    provenance: tuple[Mapping[str, Any], ...] = ()
    scale: float = 100.0
    bias: float | None = None

    def __post_init__(self) -> None:
        vectors_SD = torch.as_tensor(self.vectors_SD).detach().to("cpu", torch.float32)
        class_of_S = torch.as_tensor(self.class_of_S).to("cpu", torch.int64)
        for label, name in enumerate(self.names):
            if not (class_of_S == label).any():
                raise UserError(f"the class {name!r} has no support vector; give it at least one box, or leave it out")
        for key, value in (("names", tuple(self.names)), ("vectors_SD", _unit(vectors_SD)),
                           ("class_of_S", class_of_S), ("space", dict(self.space)),
                           ("provenance", tuple(map(dict, self.provenance)) or tuple({} for _ in self.names))):
            object.__setattr__(self, key, value)

    def of(self, name: str) -> Tensor:
        """The vectors of one class, ``[its shots, D]``."""
        return self.vectors_SD[self.class_of_S == self._label(name)]

    def first(self, k: int) -> "SupportVectors":
        """The first ``k`` vectors of each class (all of a class that has fewer)."""
        if k < 1:
            raise UserError(f"{k} shots of each class: needs one or more")
        taken, keep = [0] * len(self.names), torch.zeros(len(self.class_of_S), dtype=torch.bool)
        for row, label in enumerate(self.class_of_S.tolist()):
            keep[row] = taken[label] < k
            taken[label] += 1
        return replace(self, vectors_SD=self.vectors_SD[keep], class_of_S=self.class_of_S[keep],
                       provenance=tuple(first_boxes(origin, k) for origin in self.provenance))

    def select(self, names: Iterable[str]) -> "SupportVectors":
        """The classes ``names``, in that order; UserError with the nearest names for an unknown one."""
        labels = [self._label(name) for name in names]
        rows = [(self.class_of_S == label).nonzero()[:, 0] for label in labels]
        return replace(self, names=tuple(self.names[label] for label in labels),
                       vectors_SD=self.vectors_SD[torch.cat(rows)],
                       class_of_S=torch.repeat_interleave(torch.tensor([len(each) for each in rows])),
                       provenance=tuple(self.provenance[label] for label in labels))

    def head(self, method: str = "prototype", **settings: Any) -> ClassHead:
        """A class head of these vectors; see :func:`ovd.fewshot.sources.from_supports` for methods and errors."""
        settings.setdefault("scale", self.scale)
        return from_supports(self.vectors_SD, self.class_of_S, self.names, method, stats=self.space, bias=self.bias,
                             provenance=self.provenance, **settings)

    def _label(self, name: str) -> int:
        for label, known in enumerate(self.names):
            if canonical(known) == canonical(name):
                return label
        raise UserError(f"there are no support vectors of {name!r}{nearest(name, self.names)}")


def clip_vectors(shots: ShotSet, image_root: str | Path, encoder: RegionEncoder, clip: ClipModel) -> SupportVectors:
    """Embed the crops of shots as the regions of a store are embedded.

    Each image is read once. The vectors of the same shots are the same bytes (on one device).

    Args:
        image_root: The folder that the shots' images lie in.
        encoder: Of ``clip``.

    Raises:
        UserError: An image that is missing, damaged or of another size, a box outside its image.
    """
    shots.check(image_root)
    rows = embedded_boxes(list(dict.fromkeys(shots.shots())), image_root, encoder)
    vectors_SD = torch.from_numpy(np.stack([rows[shot] for shot in shots.shots()])).float()
    counts_C = torch.tensor([len(each) for each in shots.classes.values()])
    how = {"embedded": "clip", "recipe": encoder.cropper.recipe.config()}
    sigmoid = {} if clip.logit_bias is None else {"scores": "sigmoid", "clip_bias": clip.logit_bias}
    space = {"clip": clip.fingerprint, **sigmoid}
    return SupportVectors(shots.names, vectors_SD, torch.repeat_interleave(counts_C), space,
                          tuple({**support_of(shots, name), **how} for name in shots.names), clip.logit_scale,
                          clip.logit_bias)


def embedded_boxes(shots: list[Shot], image_root: str | Path, encoder: RegionEncoder) -> dict[Shot, np.ndarray]:
    """The embedding float16 ``[D]`` of each shot."""
    by_image: dict[str, list[Shot]] = {}
    for shot in shots:
        by_image.setdefault(shot.image, []).append(shot)
    crops = (encoder.crop(load_rgb(Path(image_root, image)), np.array([shot.box for shot in here], np.float32))
             for image, here in by_image.items())
    rows = encoder.encode(crops)
    return {shot: row for here, rows_ND in zip(by_image.values(), rows) for shot, row in zip(here, rows_ND)}


def _unit(vectors_SD: Tensor) -> Tensor:
    """Unit rows; those that are ones keep their bits."""
    lengths_S1 = vectors_SD.norm(dim=1, keepdim=True)
    return torch.where((lengths_S1 - 1).abs() < 1e-6, vectors_SD, F.normalize(vectors_SD, dim=1))


def support_of(shots: ShotSet, name: str) -> dict[str, Any]:
    """The provenance of a class's support: its boxes, their hash, and what is said of their file."""
    boxes = [[shot.image, *shot.box] for shot in shots[name]]
    source = {key: shots.info[key] for key in ("file", "sha256", "method", "seed") if key in shots.info}
    return {"boxes": boxes, "boxes_hash": shots.select([name]).hash, "boxes_source": source}


def first_boxes(origin: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The provenance of a class's ``k`` first boxes; the hash of more is not theirs."""
    if len(origin.get("boxes", ())) <= k:
        return dict(origin)
    return {**{key: value for key, value in origin.items() if key != "boxes_hash"}, "boxes": origin["boxes"][:k]}
