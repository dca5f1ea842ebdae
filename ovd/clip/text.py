"""Class embeddings: CLIP's text tower over the prompts of every class, averaged to one row, as a class head."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.clip.text_tower import TextEncoder
from ovd.clip.towers import ClipModel
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.prompts import PromptStyle, class_texts, prompts


def class_embeddings(clip: ClipModel, names: Sequence[str], style: PromptStyle, *,
                     synonyms: Mapping[str, Sequence[str]] | None = None,
                     progress: Callable[[int], None] = lambda texts: None,
                     encode: TextEncoder | None = None) -> ClassHead:
    """A class head of one row a class: the mean over its prompts (and synonyms), as the style says.

    A class's row does not depend on the other classes, to the bit: the texts of a word (the name, or a synonym) are
    computed by themselves, and what they share with those of other words depends on the style only. Words that give the
    same texts are computed once.

    Args:
        names: Class names, distinct.
        synonyms: See :func:`ovd.vocabulary.prompts.class_texts`.
        progress: Called after each class with the number of its texts.
        encode: :func:`style_encoder` of the CLIP and the style, to be used many times; None makes one.

    Returns:
        A head whose scale is the CLIP's, and its bias, the same for each class, where it has one (SigLIP). Rows that
        the style leaves shorter than one (OADP) make a ``linear`` head, so that their length counts; else it is a
        ``cosine`` head.

    Raises:
        UserError: No names, repeated or empty ones; embeddings that are not finite.
    """
    rows = []
    texts = class_texts(names, style, synonyms)
    encode = encode or style_encoder(clip, style)
    uses = Counter(words for class_prompts in texts for words in _by_word(class_prompts, style))
    known: dict[tuple[str, ...], Tensor] = {}
    for class_prompts in texts:
        found = []
        for words in _by_word(class_prompts, style):
            raw_TD = known[words] if words in known else encode(list(words))
            if uses[words] > 1:
                known[words] = raw_TD
            found.append(raw_TD)
        rows.append(average(torch.cat(found), style.normalize_texts, style.normalize_mean))
        progress(len(class_prompts))
    provenance = [{"text": name, "prompts": len(class_prompts)} for name, class_prompts in zip(names, texts)]
    for name, origin in zip(names, provenance):
        if synonyms and synonyms.get(name):
            origin["synonyms"] = list(synonyms[name])
    bias = None if clip.logit_bias is None else torch.full((len(rows),), clip.logit_bias)
    sigmoid = {} if bias is None else {"scores": "sigmoid", "clip_bias": clip.logit_bias}
    return ClassHead(tuple(names), torch.stack(rows)[:, None], bias, scale=clip.logit_scale,
                     norm="cosine" if style.normalize_mean else "linear", provenance=tuple(provenance),
                     stats={"clip": clip.fingerprint, **sigmoid})


def style_encoder(clip: ClipModel, style: PromptStyle) -> TextEncoder:
    """An encoder that has computed what all names in a style's templates share, from its first use on."""
    return clip.text_encoder(shared=prompts("", style))


def _by_word(texts: list[str], style: PromptStyle) -> list[tuple[str, ...]]:
    """The texts of a class, those of each of its words together."""
    size = len(style.templates)
    return [tuple(texts[first:first + size]) for first in range(0, len(texts), size)]


def average(raw_TD: Tensor, normalize_texts: bool = True, normalize_mean: bool = True) -> Tensor:
    """One row ``[D]`` from the raw embeddings ``[T, D]`` of T texts: unit length each, mean, unit length."""
    mean_D = (F.normalize(raw_TD, dim=-1) if normalize_texts else raw_TD).mean(dim=0)
    return F.normalize(mean_D, dim=-1) if normalize_mean else mean_D
