"""The class head: one type for every way to define classes (text, boxes, both, a learned code), and its file.

Shapes: N regions, C classes, M vectors a class, D embedding width.
"""

import io
import json
import math
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.stores.atomic import write_bytes
from ovd.stores.head_forms import Terms
from ovd.stores.manifest import Manifest, canonical_json, publish
from ovd.stores.scoring import NORMS, REDUCTIONS, class_logits, independent_probabilities, sigmoid
from ovd.vocabulary.classes import canonical

KIND = "class_head"
_METADATA = "class_head"  # the one metadata key of the file: several would be written in random order
_TENSORS = ("weights", "bias", "background", "counts")


@dataclass(frozen=True, eq=False)
class ClassHead:
    """Names and how a region embedding becomes a logit for each; :func:`ovd.stores.scoring.class_logits` has the sums.

    Attributes:
        names: the classes, in the order of the logits' columns.
        weights: float32 ``[C, M, D]`` on the CPU; arrays and other floating types are converted.
        bias: float32 ``[C]``, added to the logits, or None.
        scale: factor of the similarities (CLIP's is 100).
        norm: ``"cosine"``, ``"linear"`` or ``"euclid"``.
        reduce: ``"single"`` (M = 1), ``"mean_logit"``, ``"max"``, ``"exp_sum"`` (with ``beta``, cosine only) or
            ``"log_mean_exp"``; ``"mixed"`` (cosine only) where classes of different forms stand side by side.
        background: float32 ``[D]``, a row that stands for no class (ViLD), or None.
        provenance: for each class, where it comes from.
        stats: of the whole head; ``stats["clip"]`` is the fingerprint of the CLIP whose space this is, and
            ``stats["scores"]`` is ``"sigmoid"`` where that CLIP learned to say yes or no to each class (SigLIP), and
            ``stats["clip_bias"]`` its bias. ``stats["bias"]`` is ``"own"`` where biases were found for single classes.
            A head of another space, such as a detector's own features, has ``stats["space"]`` instead: its kind and
            the fingerprint of the weights.
        counts: int64 ``[C]``, how many of a class's M vectors are in use, the first ones; None for all.
        terms: of a ``"mixed"`` head, what each class does; ``scale`` then is only what a detector divides by.

    Raises: UserError when made from parts that do not fit (see :meth:`check`).
    """

    names: tuple[str, ...]
    weights: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    norm: str = "cosine"
    reduce: str = "single"
    beta: float | None = None
    background: Tensor | None = None
    provenance: tuple[Mapping[str, Any], ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    counts: Tensor | None = None
    terms: Terms | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("names", tuple(self.names))
        put("provenance", tuple(dict(p) for p in self.provenance) or tuple({} for _ in self.names))
        put("stats", dict(self.stats))
        put("scale", float(self.scale))
        for name in _TENSORS:
            value = getattr(self, name)
            if value is not None:
                dtype = torch.int64 if name == "counts" else torch.float32
                put(name, torch.as_tensor(value).detach().to("cpu", dtype, copy=True).contiguous())
        self.check()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """D, the embedding width."""
        return self.weights.shape[-1]

    @property
    def space(self) -> str | None:
        """Whose embeddings this head scores: a CLIP's fingerprint, or ``stats["space"]``; None if not known."""
        return self.stats.get("space", self.stats.get("clip"))

    @property
    def clip_bias(self) -> float:
        """What the CLIP adds to the logits of all its classes: it says nothing of one class against others.

        ``stats["clip_bias"]``. Heads from before that was kept have the bias that most classes share where scores are
        sigmoids, or all of them otherwise, unless ``stats["bias"]`` is ``"own"``. 0 for none.
        """
        if "clip_bias" in self.stats or self.bias is None:
            return float(np.float32(self.stats.get("clip_bias", 0.0)))  # as the biases have it
        shared = float(self.bias.mode().values)
        of_all = self.stats.get("bias") != "own" and bool((self.bias == shared).all())
        return shared if of_all or self.stats.get("scores") == "sigmoid" else 0.0

    def check(self, dim: int | None = None, clip: str | None = None, space: str | None = None) -> "ClassHead":
        """Itself, or UserError: parts that do not fit; another width, CLIP or embedding space than those given."""
        self._check_names()
        self._check_form()
        self._check_values()
        if dim is not None and dim != self.dim:
            raise UserError(f"class head of width {self.dim}, needed is {dim}: make it with the CLIP whose embeddings "
                            "it is compared with")
        if clip is not None and self.stats.get("clip") != clip:
            raise UserError(f"class head of the CLIP {_shown(self.stats.get('clip'))}, needed is {_shown(clip)}: "
                            "make it again with that CLIP")
        if space is not None and self.space != space:
            raise UserError(f"class head of the embedding space {_shown(self.space)}, needed is {_shown(space)}: make "
                            "it again with what made the embeddings")
        return self

    def _check_names(self) -> None:
        if not self.names:
            raise UserError("class head without classes: name at least one")
        seen: set[str] = set()
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise UserError(f"class head: {name!r} is not a class name")
            if name in seen:
                raise UserError(f"class head: the class {name!r} occurs twice; class names must be unique")
            seen.add(name)

    def _check_form(self) -> None:
        if self.weights.ndim != 3 or len(self.weights) != len(self) or 0 in self.weights.shape:
            raise UserError(f"class head: {len(self)} names need weights [{len(self)}, M, D], not "
                            f"{list(self.weights.shape)}")
        classes, vectors, dim = self.weights.shape
        shapes = {"bias": [classes], "background": [dim], "counts": [classes]}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and list(value.shape) != shape:
                raise UserError(f"class head: {name} has shape {list(value.shape)}, expected {shape}")
        if len(self.provenance) != classes:
            raise UserError(f"class head: provenance of {len(self.provenance)} classes, but {classes} names")
        if self.norm not in NORMS:
            raise UserError(f"class head: unknown norm {self.norm!r}{nearest(self.norm, NORMS)}")
        if self.reduce not in REDUCTIONS:
            raise UserError(f"class head: unknown reduction {self.reduce!r}{nearest(self.reduce, REDUCTIONS)}")
        if self.reduce == "single" and vectors != 1:
            raise UserError(f"class head: {vectors} vectors a class need a reduction (mean_logit, max, exp_sum, "
                            "log_mean_exp)")
        if (self.reduce == "exp_sum") != (self.beta is not None):
            raise UserError("class head: exp_sum needs beta, the other reductions take none")
        if (self.reduce == "mixed") != (self.terms is not None):
            raise UserError("class head: mixed classes need terms, the other reductions take none")
        if self.terms is not None:
            if self.norm != "cosine":
                raise UserError(f"class head: mixed classes are compared by cosine, not {self.norm}")
            self.terms.check(self.names, vectors)
        if self.reduce == "exp_sum" and (self.norm != "cosine" or not 0 < self.beta < math.inf):
            raise UserError(f"class head: exp_sum works on cosines with a beta above 0, not {self.norm} with "
                            f"{self.beta}")

    def _check_values(self) -> None:
        vectors = self.weights.shape[1]
        for name in ("weights", "bias"):
            value = getattr(self, name)
            if value is not None and not (fine := torch.isfinite(value).flatten(1 if value.ndim > 1 else 0)).all():
                row = int((~fine).reshape(len(self), -1).any(1).nonzero()[0])
                raise UserError(f"class head: the {name} of class {self.names[row]!r} have NaN or infinity")
        if self.background is not None and not torch.isfinite(self.background).all():
            raise UserError("class head: the background row has NaN or infinity")
        if not math.isfinite(self.scale) or self.scale <= 0:
            raise UserError(f"class head: scale {self.scale}, expected a number above 0")
        if self.counts is not None and not ((self.counts >= 1) & (self.counts <= vectors)).all():
            raise UserError(f"class head: counts must lie between 1 and {vectors}")
        if self.norm == "cosine":
            counts = torch.full((len(self),), vectors) if self.counts is None else self.counts
            zero = (self.weights.abs().amax(-1) == 0) & (torch.arange(vectors) < counts[:, None])
            if zero.any():
                name = self.names[int(zero.any(1).nonzero()[0])]
                raise UserError(f"class head: a vector of class {name!r} is zero, it has no direction")

    def logits(self, x: Tensor, with_background: bool = False) -> Tensor:
        """Logits of region embeddings ``x`` ``[N, D]`` on any device: float32 ``[N, C]``.

        With ``with_background`` the background row's logit is a last column more. Differentiable in ``x``. Adding
        classes leaves the other columns bit-identical on a CPU.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise UserError(f"embeddings of shape {list(x.shape)} for a class head of width {self.dim}: "
                            "make both with the same CLIP")
        form = {"norm": self.norm, "reduce": self.reduce, "beta": self.beta, "scale": self.scale}
        counts = None if self.counts is None else self.counts.to(x.device)
        terms = None if self.terms is None else self.terms.to(x.device)
        logits = class_logits(x, self.weights.to(x.device), counts, **form, terms=terms)
        if self.bias is not None:
            logits = logits + self.bias.to(x.device)
        if not with_background:
            return logits
        if self.background is None:
            raise UserError("class head: has no background row")
        if self.reduce in ("log_mean_exp", "mixed"):
            form["reduce"] = "single"
        return torch.cat([logits, class_logits(x, self.background.to(x.device)[None, None], **form)], dim=1)

    def probabilities(self, x: Tensor, is_reference_C: Tensor | None = None) -> Tensor:
        """What the CLIP itself makes of region embeddings ``x`` ``[N, D]``: float32 ``[N, C]``.

        Softmax over the classes; for a CLIP trained with sigmoids, the sigmoid of each logit.

        Args:
            is_reference_C: bool; softmax over these alone, each of the others by itself against them
                (:func:`ovd.stores.scoring.independent_probabilities`).
        """
        logits = self.logits(x)
        if self.stats.get("scores") == "sigmoid":
            return sigmoid(logits)
        return logits.softmax(dim=1) if is_reference_C is None else independent_probabilities(logits, is_reference_C)

    def select(self, names: Iterable[str]) -> "ClassHead":
        """The head of ``names``, in that order; UserError with the nearest names for an unknown one.

        Spellings that are in use side by side (``speaker_(stereo_equipment)``) are taken for one another.
        """
        names = tuple(names)
        rows = self._rows(names)
        return replace(self, names=names, weights=self.weights[rows],
                       bias=None if self.bias is None else self.bias[rows],
                       counts=None if self.counts is None else self.counts[rows],
                       terms=None if self.terms is None else self.terms.rows(rows),
                       provenance=tuple(self.provenance[row] for row in rows))

    def remove(self, names: Iterable[str]) -> "ClassHead":
        """The head without ``names``; UserError with the nearest names for an unknown one, or if none remains."""
        gone = set(self._rows(tuple(names)))
        if len(gone) == len(self):
            raise UserError("class head: no class would remain; a head has at least one")
        return self.select(name for row, name in enumerate(self.names) if row not in gone)

    def concat(self, other: "ClassHead") -> "ClassHead":
        """This head's classes, then the other's; their logits stay what they were, to the bit.

        Lists of different length M are padded and counted. Cosine heads of different forms or scales become one that is
        ``mixed``, with this head's ``scale`` for the detector to divide by. Raises UserError for a name in both,
        another embedding space or width, another norm, or other linear or euclid forms.
        """
        self.check_space_of(other)
        if both := set(self.names) & set(other.names):
            raise UserError(f"class heads: the class {min(both)!r} is in both; blend them, or select the others first")
        reductions = {self.reduce, other.reduce}
        if reductions in ({"single", "mean_logit"}, {"single", "max"}):  # the mean and the maximum of one are itself
            reductions -= {"single"}
        background = self._one_background(other)
        form: dict[str, Any] = {"reduce": reductions.pop()}
        if reductions or form["reduce"] == "mixed" or self.scale != other.scale or self.beta != other.beta:
            self._check_mixable(other)
            form = {"reduce": "mixed", "beta": None, "terms": self.as_terms().joined(other.as_terms())}
        vectors = max(self.weights.shape[1], other.weights.shape[1])
        heads = (self, other)
        ragged = any(head.weights.shape[1] < vectors or head.counts is not None for head in heads)
        return replace(
            self, names=self.names + other.names, **form,
            weights=torch.cat([F.pad(h.weights, (0, 0, 0, vectors - h.weights.shape[1])) for h in heads]),
            counts=torch.cat([h.counts_C() for h in heads]) if ragged else None,
            bias=None if self.bias is None and other.bias is None else torch.cat([h.bias_C() for h in heads]),
            background=background, provenance=self.provenance + other.provenance, stats=self.stats_with(other))

    def as_terms(self) -> Terms:
        """How each class's cosines become its logit, the form of a ``mixed`` head."""
        return self.terms or Terms.of(*self.weights.shape[:2], self.reduce, self.scale, self.beta)

    def as_mixed(self, terms: Terms | None = None, **changes: Any) -> "ClassHead":
        """The same classes in ``mixed`` form; with their own terms, the logits keep their bits."""
        return replace(self, reduce="mixed", beta=None, terms=terms or self.as_terms(), **changes)

    def as_cosine(self, scale: float | None = None) -> "ClassHead":
        """The same logits, for unit embeddings, by cosines: a linear head's vectors become directions with a factor.

        Args:
            scale: of the result, for a detector to divide by; this head's own if None.

        Raises UserError for a euclid head.
        """
        scale = self.scale if scale is None else scale
        if self.norm == "cosine":
            return self if scale == self.scale else self.as_mixed(scale=scale)
        if self.norm == "euclid":
            raise UserError("class head: distances of a euclid head have no form by cosines; make the classes with "
                            "norm cosine")
        lengths_CM = self.weights.double().norm(dim=2)
        weights = self.weights.clone()
        weights[lengths_CM == 0] = torch.eye(self.dim)[0]  # any direction, by a factor of 0
        terms = self.as_terms()
        return self.as_mixed(replace(terms, mix=lengths_CM), norm="cosine", weights=weights, scale=scale)

    def blend(self, other: "ClassHead", lam: float) -> "ClassHead":
        """``(1 - lam) * self + lam * other`` for classes in both; the others as they are, this head's first.

        Vectors are compared by direction in a cosine head: they are normalised before and after. Needs one vector a
        class on both sides. ``scale`` and background are this head's. Raises UserError as :meth:`concat`.
        """
        self.check_space_of(other)
        if not 0 <= lam <= 1:
            raise UserError(f"class heads: blend weight {lam}, expected 0 to 1")
        if self.reduce != "single" or other.reduce != "single":
            raise UserError("class heads: only heads with one vector a class can be blended; average the shots first, "
                            "or see ovd.fewshot.combination")
        both = [name for name in self.names if name in set(other.names)]
        ours, theirs = [self.names.index(n) for n in both], [other.names.index(n) for n in both]
        new = [i for i, name in enumerate(other.names) if name not in set(both)]

        def mixed(a: Tensor, b: Tensor) -> Tensor:
            return (1 - lam) * a + lam * b

        weights, bias, provenance = self.weights.clone(), self.bias_C(), list(self.provenance)
        if self.norm == "cosine":
            mix = mixed(F.normalize(self.weights[ours], dim=-1), F.normalize(other.weights[theirs], dim=-1))
            weights[ours] = F.normalize(mix, dim=-1)
        else:
            weights[ours] = mixed(self.weights[ours], other.weights[theirs])
        bias[ours] = mixed(bias[ours], other.bias_C()[theirs])
        for i, j in zip(ours, theirs):
            provenance[i] = {"blend": [self.provenance[i], other.provenance[j]], "lam": float(lam)}
        return replace(
            self, names=self.names + tuple(other.names[i] for i in new),
            weights=torch.cat([weights, other.weights[new]]),
            bias=None if self.bias is None and other.bias is None else torch.cat([bias, other.bias_C()[new]]),
            background=self.background if self.background is not None else other.background,
            provenance=(*provenance, *(other.provenance[i] for i in new)), stats=self.stats_with(other))

    def stats_with(self, other: "ClassHead") -> dict[str, Any]:
        """Of a head with classes of both: what holds for both, and what is needed to tell biases apart."""
        stats = {key: value for key, value in self.stats.items() if key in other.stats and other.stats[key] == value}
        if "own" in (self.stats.get("bias"), other.stats.get("bias")):
            stats["bias"] = "own"
        known = {head.stats["clip_bias"] for head in (self, other) if "clip_bias" in head.stats}
        return {**stats, "clip_bias": known.pop()} if len(known) == 1 else stats

    def _rows(self, names: tuple[str, ...]) -> list[int]:
        place = {canonical(name): i for i, name in enumerate(self.names)} | {n: i for i, n in enumerate(self.names)}
        rows = []
        for name in names:
            row = place.get(name, place.get(canonical(name)))
            if row is None:
                raise UserError(f"class head has no class {name!r}{nearest(name, self.names)}")
            rows.append(row)
        return rows

    def counts_C(self) -> Tensor:
        """How many vectors of each class are in use, int64 ``[C]``."""
        return torch.full((len(self),), self.weights.shape[1]) if self.counts is None else self.counts

    def bias_C(self) -> Tensor:
        """A copy of the biases, float32 ``[C]``; -0 where there are none."""
        return torch.full((len(self),), -0.0) if self.bias is None else self.bias.clone()  # adding -0 changes no bit

    def _one_background(self, other: "ClassHead") -> Tensor | None:
        if self.background is None or other.background is None:
            return other.background if self.background is None else self.background
        if not torch.equal(self.background, other.background):
            raise UserError("class heads: the background rows differ; drop one of them")
        return self.background

    def _check_mixable(self, other: "ClassHead") -> None:
        if self.norm != "cosine":
            if self.reduce != other.reduce:
                raise UserError(f"class heads: {self.norm} heads with {self.reduce} and {other.reduce} do not go side "
                                "by side; linear ones do as_cosine()")
            raise UserError(f"class heads: scale {self.scale} and {other.scale} differ; bring both to one")
        for head in (self, other):
            if head.background is not None and (head.reduce == "exp_sum" or head.scale != self.scale):
                raise UserError("class heads: the background row is of a head of another form or scale; drop it")

    def check_space_of(self, other: "ClassHead") -> None:
        """UserError where the other's vectors are not comparable with these: another width, space or norm."""
        if self.dim != other.dim:
            raise UserError(f"class heads: widths {self.dim} and {other.dim} differ; make both with the same CLIP")
        if self.space != other.space:
            what = "in different embedding spaces" if "space" in {*self.stats, *other.stats} else "with different CLIPs"
            raise UserError(f"class heads: made {what} ({_shown(self.space)}, {_shown(other.space)}), their vectors "
                            "cannot be compared; make both with the same (or say which on import)")
        if self.norm != other.norm:
            raise UserError(f"class heads: norms {self.norm} and {other.norm} differ; a linear head that scores unit "
                            "embeddings goes beside cosine ones by as_cosine(), a euclid one does not")

    def save(self, path: str | os.PathLike, stage: str = "class-embeddings", config: Mapping[str, Any] | None = None,
             inputs: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Manifest:
        """Write the head (safetensors, all in one file) and its manifest; the same head gives the same bytes."""
        manifest = Manifest(KIND, stage, dict(config or {}), dict(inputs or {}), flags=dict(flags or {}),
                            counts={"classes": len(self), "vectors": int(self.counts_C().sum()), "dim": self.dim})
        meta, tensors = self.parts()
        data = safetensors.torch.save(tensors, {_METADATA: canonical_json(meta)})
        with publish(path, manifest) as (temporary, _):
            temporary.write_bytes(data)
        return manifest

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is in a head's file: plain json, and tensors by name."""
        meta = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*_TENSORS, "terms")}
        tensors = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        tensors |= {} if self.terms is None else self.terms.tensors()
        schema = 2 if self.reduce in ("log_mean_exp", "mixed") else 1  # what versions before these forms can read is 1
        return {"schema": schema, **meta}, tensors

    @classmethod
    def of_parts(cls, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ClassHead":
        """The head of which :meth:`parts` made these; ValueError, KeyError, TypeError or UserError for others."""
        meta, tensors = dict(meta), dict(tensors)
        if meta.pop("schema") not in (1, 2):
            raise ValueError("written by a later version of ovd")
        terms = Terms.load(tensors)
        head = {**meta, **tensors, **({} if terms is None else {"terms": terms})}
        if head.keys() - {f.name for f in fields(cls)} or "weights" not in tensors:
            raise ValueError(f"has the entries {sorted(head)}")
        return cls(**head)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ClassHead":
        """The head in a file that :meth:`save` wrote; UserError that names the file for anything else."""
        path = Path(path)
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {})[_METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return cls.of_parts(meta, tensors)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; make it with ovd class-embeddings") from error
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: is not a class head file ({_first_line(error)}); make it with "
                            "ovd class-embeddings, matrices (.npy, .pth) are imported there") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def export(self, path: str | os.PathLike) -> None:
        """Write the ``vild.pth`` of OpenSet-dev and OADP: a dict of ``embeddings`` ``[C, D]`` and ``names``."""
        if self.weights.shape[1] != 1:
            raise UserError(f"{path}: a matrix has one row a class, this head has {self.weights.shape[1]} vectors")
        if self.reduce == "mixed":
            raise UserError(f"{path}: a matrix has rows alone, the classes of this head have factors or kernels of "
                            "their own; use the class head file itself")
        buffer = io.BytesIO()  # the name of a file that torch writes itself becomes part of its bytes
        torch.save({"embeddings": self.weights[:, 0].clone(), "names": list(self.names)}, buffer)
        write_bytes(path, buffer.getvalue())


def import_matrix(path: str | os.PathLike, names: str | os.PathLike | Sequence[str] | None = None, *,
                  clip: str | None = None, scale: float = 100.0, norm: str = "cosine") -> ClassHead:
    """A class head from a matrix of embeddings ``[C, D]`` or ``[D, C]`` (the one whose side is the number of names).

    Args:
        path: ``.npy``, or ``.pth`` / ``.pt`` with a tensor or a dict of ``embeddings`` and ``names``; ``[1, C, D]``
            is taken for ``[C, D]``. OADP's multi-label prompts (``ml_coco.pth``) also hold ``scaler`` and ``bias``:
            their logit ``cos * scaler - bias`` becomes the head's scale and its bias for every class.
        names: the classes in the matrix's order: a list, a ``.txt`` (one a line) or a ``.json`` (a list of names, or
            of records with a ``name``). Not needed for a dict that has names.
        clip: fingerprint of the CLIP that made the embeddings, if known.

    Raises: UserError that names the file: unreadable, names of another number, NaN, rows of zeros, names that repeat.
    """
    path = Path(path)
    matrix, own_names, form = _read_matrix(path)
    if names is None:
        names = own_names
    if names is None:
        raise UserError(f"{path}: has no class names; give a names file (.txt with one a line, or a .json list)")
    source = path
    if isinstance(names, (str, os.PathLike)):
        source = Path(names)
        names = read_names(source)
    names = [str(name) for name in names]
    for row, (own, given) in enumerate(zip(own_names or (), names)):
        if canonical(own) != canonical(given):
            raise UserError(f"{path}: its row {row} is {own!r} by its own names, but {given!r} was given; leave out "
                            "the names, or give them in the file's order")
    if matrix.ndim == 3 and len(matrix) == 1:  # DetPro's files of one model
        matrix = matrix[0]
    if matrix.ndim != 2 or not matrix.is_floating_point():
        raise UserError(f"{path}: {matrix.dtype} of shape {list(matrix.shape)}, expected floats [C, D]")
    if len(names) not in matrix.shape:
        raise UserError(f"{path}: a matrix of {matrix.shape[0]} x {matrix.shape[1]} for {len(names)} names from "
                        f"{source.name}; one side must be the number of names")
    if matrix.shape[0] != len(names):
        matrix = matrix.T
    provenance = [{"imported": path.name, "row": row} for row in range(len(names))]
    try:
        bias = torch.full((len(names),), -form["bias"]) if "bias" in form else None
        stats = {} if clip is None else {"clip": clip}
        return ClassHead(tuple(names), matrix[:, None], bias=bias, scale=form.get("scaler", scale), norm=norm,
                         provenance=tuple(provenance),
                         stats={**stats, "clip_bias": -form["bias"]} if "bias" in form else stats)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_names(path: str | os.PathLike) -> list[str]:
    """Class names from a ``.txt`` (one a line) or a ``.json`` (a list of names, or of records with a ``name``)."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        entries = json.loads(text)
        entries = [entry["name"] if isinstance(entry, dict) else entry for entry in entries]
        if all(isinstance(entry, str) for entry in entries):
            return entries
        raise ValueError("an entry is not text")
    except OSError as error:
        raise UserError(f"{path}: cannot read the class names ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a list of class names ({_first_line(error)})") from error


def _read_matrix(path: Path) -> tuple[Tensor, Sequence[str] | None, dict[str, float]]:
    """The matrix, its names where the file has them, and ``scaler`` and ``bias`` where it has these."""
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)), None, {}
        if path.suffix not in (".pth", ".pt"):
            raise UserError(f"{path}: is neither .npy nor .pth nor .pt")
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: is truncated, not such a file, or holds more than tensors and text "
                        f"({_first_line(error)})") from error
    if isinstance(data, Tensor):
        return data, None, {}
    if isinstance(data, dict) and isinstance(data.get("embeddings"), Tensor):
        try:
            form = {key: float(data[key]) for key in ("scaler", "bias") if data.get(key) is not None}
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"{path}: its scaler or bias is not one number") from None
        return data["embeddings"], data.get("names"), form
    held = f"a dict of {sorted(map(str, data))[:8]}" if isinstance(data, dict) else type(data).__name__
    raise UserError(f"{path}: holds {held}, expected a matrix or a dict of embeddings and names")


def _shown(clip: str | None) -> str:
    return "unknown" if clip is None else clip[:15]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
