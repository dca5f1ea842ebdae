"""Class heads from a few boxes' vectors, one function a method, and from the rows of trained checkpoints.

``METHODS`` has the methods by name. Each is ``method(supports, **settings) -> ClassHead``; :func:`from_supports` is the
door. Rows of checkpoints are in :mod:`ovd.fewshot.sources.checkpoints`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.fewshot.sources.cache import tip, tip_f
from ovd.fewshot.sources.fit import Fit
from ovd.fewshot.sources.fitted import cosine, linear, negative_margin
from ovd.fewshot.sources.metric import matching, prototype
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead

METHODS: dict[str, Callable[..., ClassHead]] = {
    "prototype": prototype, "matching": matching, "tip": tip, "tip-f": tip_f, "linear": linear, "cosine": cosine,
    "negative-margin": negative_margin}


def from_supports(vectors_SD: Tensor, class_of_S: Tensor, names: Sequence[str], method: str = "prototype", *,
                  scale: float | None = None, stats: Mapping[str, Any] | None = None,
                  provenance: Sequence[Mapping[str, Any]] = (), bias: float | None = None,
                  **settings: Any) -> ClassHead:
    """A class head of ``names`` from support vectors.

    Args:
        vectors_SD: ``[S, D]``, in the space of the embeddings that will be scored; normalised here.
        class_of_S: ``[S]``, positions in ``names``. Any number of vectors a class, and each class its own.
        method: One of ``METHODS``.
        scale: Of the head; the CLIP's own, so that it stands beside text classes. None takes that of a text, base or
            initial head among the settings, or 100.
        stats: Of the head: ``{"clip": fingerprint}`` (see :attr:`ClassHead.space`).
        provenance: For each class, where its vectors come from; the method and its settings are added.
        bias: Of the CLIP itself, for one trained with sigmoids (SigLIP), as its text classes have it.
        settings: Of the method; see its function.

    Raises:
        UserError: Unknown method or setting; a class without vectors, twice the same name, NaN, vectors of zeros; a
            text or base head of another space or width.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r} for classes from boxes{nearest(method, METHODS)}")
    parameters = inspect.signature(METHODS[method]).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        known += [field.name for field in fields(Fit)]
    for name in settings:
        if name not in known:
            hint = nearest(name, known) if known else "; it has none"
            raise UserError(f"method {method!r}: unknown setting {name!r}{hint}")
    if scale is None:
        given = [settings[name] for name in ("text", "base", "init") if settings.get(name) is not None]
        scale = given[0].scale if given else 100.0
    supports = Supports(vectors_SD, class_of_S, tuple(names), scale, stats or {}, provenance, bias)
    return METHODS[method](supports, **settings)
