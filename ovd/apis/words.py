"""Classes by words, at once: a CLIP's text tower that stays loaded, and the rows that it has made."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ovd.clip.queries import without_article
from ovd.clip.text import class_embeddings, style_encoder
from ovd.clip.text_tower import TextEncoder
from ovd.clip.towers import ClipModel
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.prompts import get_style

KEPT = 20_000  # words whose rows are kept


@dataclass(frozen=True, eq=False)
class _Row:
    """What the words of one class became: ``[1, D]``."""

    weights: Tensor
    provenance: Mapping[str, Any]


class Words:
    """Makes classes of words, each once. Shared by the sessions of a detector; safe in threads.

    Args:
        load: Loads the CLIP, when words are first asked for.
        style: Of the prompts.
        fingerprint: Of the CLIP that the detector was trained with; None if not known.
    """

    def __init__(self, load: Callable[[], ClipModel], style: str = "vild", fingerprint: str | None = None) -> None:
        self._load, self._style_name, self._fingerprint = load, style, fingerprint
        self._style = get_style(style)
        self._clip: ClipModel | None = None
        self._encoder: TextEncoder | None = None
        self._form: ClassHead | None = None
        self._rows: dict[tuple[str, ...], _Row] = {}
        self._lock = threading.Lock()

    def head(self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None) -> ClassHead:
        """A cosine head of ``names`` by their prompts; a class's row does not depend on the others, to the bit.

        Args:
            texts: Words for a name in its place; several are averaged.

        Raises:
            UserError: A CLIP that is not at hand, or is another than the detector was trained with; empty names.
        """
        wanted = [tuple(map(without_article, (texts or {}).get(name, (name,)))) for name in names]
        with self._lock:
            for words in dict.fromkeys(wanted):
                if words not in self._rows:
                    self._make(words)
            rows = [self._rows[words] for words in wanted]
            if len(self._rows) > KEPT:
                self._rows.clear()
        form = self._form
        head = replace(form, names=tuple(names), weights=torch.stack([row.weights for row in rows]),
                       bias=None if form.bias is None else form.bias.repeat(len(rows)),
                       provenance=tuple(row.provenance for row in rows))
        return head.as_cosine() if head.norm == "linear" else head

    @property
    def clip(self) -> ClipModel:
        """The CLIP, loaded when it is first asked for."""
        with self._lock:
            return self._loaded()

    def _loaded(self) -> ClipModel:
        if self._clip is None:
            clip = self._load()
            if self._fingerprint not in (None, clip.fingerprint):
                raise UserError(f"{clip.name}: is the CLIP {clip.fingerprint[:15]}, the detector was trained with "
                                f"{self._fingerprint[:15]}: name that one (regions.pretrained in the config)")
            self._clip, self._encoder = clip, style_encoder(clip, self._style)
        return self._clip

    def _make(self, words: tuple[str, ...]) -> None:
        synonyms = {words[0]: list(words)} if len(words) > 1 else {}
        head = class_embeddings(self._loaded(), [words[0]], self._style, synonyms=synonyms, encode=self._encoder)
        self._form = self._form or head
        origin = {"text": list(words), "prompts": head.provenance[0]["prompts"], "style": self._style_name}
        self._rows[words] = _Row(head.weights[0], origin)
