"""Text and boxes of the same classes as one: blended vectors, blended logits, or the higher of two logits.

Shapes: C classes, M vectors a class, D embedding width.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.stores.class_heads import ClassHead
from ovd.stores.head_forms import LOG_MEAN_EXP, MAX, MEAN, SUM, Terms

RULES = ("weights", "logits", "max")
_Term = tuple[Tensor, float, float, float]  # unit vector [D], factor, beta and shift, in logits
KAPPA = 2.0  # of lam_of_shots: as much weight on two boxes as on a name


def lam_of_shots(shots: int, kappa: float = KAPPA) -> float:
    """How much boxes count beside a name, ``k / (k + kappa)``: nothing without boxes, the more the more there are."""
    if shots < 0 or not kappa > 0:
        raise UserError(f"text and boxes: {shots} shots with kappa {kappa}; shots are 0 or more, kappa is above 0")
    return shots / (shots + kappa)


def combine(text: ClassHead | None, boxes: ClassHead | None, rule: str = "weights", *,
            lam: float | Mapping[str, float] | None = None, kappa: float = KAPPA,
            alpha: float | None = None) -> ClassHead:
    """One head of the classes of both: text's in their order, then those that only boxes have.

    A class that is in one of the two is taken as it is, to the bit; with ``None`` for one, the other is the result.
    For a class in both, by ``rule``:

    - ``weights``: the normalised blend ``(1 - lam) t + lam b`` of the unit vectors; factors and biases are blended
      likewise.
    - ``logits``: ``(1 - lam) s_text + lam s_boxes``; or with ``alpha``, ``s_text + alpha * s_boxes`` (for a cache that
      was made without text: Tip-Adapter, eq. 7).
    - ``max``: the higher of the two logits, as of a class with more vectors.

    Args:
        text, boxes: Cosine heads of one space. ``scale`` is the text's, and so is the background if it has one.
        lam: From 0 to 1, for all classes or by name; None for :func:`lam_of_shots` of the shots that the provenance of
            ``boxes`` has.
        kappa: Of :func:`lam_of_shots`.

    Raises:
        UserError: Unknown rule, another space or width, euclid or linear heads, a form that the rule has no sum,
            maximum or vector for; no ``lam`` and no shots.
    """
    if rule not in RULES:
        raise UserError(f"text and boxes: unknown rule {rule!r}{nearest(rule, RULES)}")
    if alpha is not None and (rule != "logits" or lam is not None or not alpha > 0):
        raise UserError(f"text and boxes: alpha {alpha} is for the rule logits, in place of lam, and above 0")
    if text is None or boxes is None:
        if text is boxes:
            raise UserError("text and boxes: neither is given; name the class, or give boxes of it")
        return text if boxes is None else boxes
    for head in (text, boxes):
        if head.norm != "cosine":
            raise UserError(f"text and boxes: a head with norm {head.norm} goes with none by cosine; make its classes "
                            "with norm cosine, or bring a linear one to it by as_cosine()")
    background = boxes.background if text.background is None else text.background
    text, boxes = replace(text, background=background), replace(boxes, background=None)
    text.check_space_of(boxes)
    only_boxes = [name for name in boxes.names if name not in set(text.names)]
    both = [name for name in text.names if name in set(boxes.names)]
    parts = [text.remove(both)] if len(both) < len(text) else []
    if both:
        ours, theirs = text.select(both), boxes.select(both)
        shares = [(1.0, alpha) if alpha is not None else (1 - share, share)
                  for share in _shares(theirs, lam, kappa, rule)]
        merged = _RULES[rule](_merged_info(ours, theirs, rule, shares), theirs, shares)
        parts.append(merged)
    if only_boxes:
        parts.append(boxes.select(only_boxes))
    result = parts[0]
    for part in parts[1:]:
        result = result.concat(part)
    return result.select([*text.names, *only_boxes])


def _shares(boxes: ClassHead, lam: float | Mapping[str, float] | None, kappa: float, rule: str) -> list[float]:
    """Lambda of each class."""
    shares = []
    for name, provenance in zip(boxes.names, boxes.provenance):
        if rule == "max":
            share = 0.5  # not in use
        elif lam is None:
            if not isinstance(provenance.get("shots"), int):
                raise UserError(f"text and boxes: the boxes of class {name!r} do not say how many they are; give lam")
            share = lam_of_shots(provenance["shots"], kappa)
        elif isinstance(lam, Mapping):
            if name not in lam:
                raise UserError(f"text and boxes: lam has no entry for class {name!r}{nearest(name, lam)}")
            share = float(lam[name])
        else:
            share = float(lam)
        if not 0 <= share <= 1:
            raise UserError(f"text and boxes: lam {share} of class {name!r}, expected 0 to 1")
        shares.append(share)
    return shares


def _merged_info(text: ClassHead, boxes: ClassHead, rule: str, shares: list[tuple[float, float]]) -> ClassHead:
    """The text with the provenance and stats of both."""
    provenance = [{"combine": [ours, theirs], "rule": rule, **({} if rule == "max" else {"weights": list(share)})}
                  for ours, theirs, share in zip(text.provenance, boxes.provenance, shares)]
    return replace(text, provenance=tuple(provenance), stats=text.stats_with(boxes))


def _blend_vectors(text: ClassHead, boxes: ClassHead, shares: list[tuple[float, float]]) -> ClassHead:
    a_C, b_C = torch.tensor(shares, dtype=torch.float64).T
    (ours_CD, our_gain_C), (theirs_CD, their_gain_C) = _vectors(text), _vectors(boxes)
    weights_CD = F.normalize(a_C[:, None] * ours_CD + b_C[:, None] * theirs_CD, dim=1)
    gain_C = torch.where(our_gain_C == their_gain_C, our_gain_C, a_C * our_gain_C + b_C * their_gain_C)
    form = {"weights": weights_CD[:, None], "counts": None, "beta": None, "bias": _blend_biases(text, boxes, a_C, b_C)}
    if (gain_C == text.scale).all():
        return replace(text, reduce="single", terms=None, **form)
    terms = Terms.of(len(text), 1, "single", text.scale)
    return replace(text, reduce="mixed", terms=replace(terms, mix=gain_C[:, None] / text.scale), **form)


def _blend_logits(text: ClassHead, boxes: ClassHead, shares: list[tuple[float, float]]) -> ClassHead:
    a_C, b_C = torch.tensor(shares, dtype=torch.float64).T
    lists = [_terms_of(text, row, "logits", a) + _terms_of(boxes, row, "logits", b)
             for row, (a, b) in enumerate(shares)]
    return _from_lists(text, lists, SUM, _blend_biases(text, boxes, a_C, b_C))


def _higher(text: ClassHead, boxes: ClassHead, shares: list[tuple[float, float]]) -> ClassHead:
    apart_C = boxes.bias_C().double() - text.bias_C().double()
    lists = [_terms_of(text, row, "max") + [(vector_D, factor, beta, shift + float(apart_C[row]))
                                            for vector_D, factor, beta, shift in _terms_of(boxes, row, "max")]
             for row in range(len(text))]
    return _from_lists(text, lists, MAX, text.bias)


_RULES: dict[str, Callable[[ClassHead, ClassHead, list[tuple[float, float]]], ClassHead]] = {
    "weights": _blend_vectors, "logits": _blend_logits, "max": _higher}


def _blend_biases(text: ClassHead, boxes: ClassHead, a_C: Tensor, b_C: Tensor) -> Tensor | None:
    if text.bias is None and boxes.bias is None:
        return None
    return a_C * text.bias_C().double() + b_C * boxes.bias_C().double()


def _used(head: ClassHead, row: int) -> tuple[int, list[_Term]]:
    """A class's kind and its terms, in logits; a kind of one term is a sum."""
    terms, count = head.as_terms(), int(head.counts_C()[row])
    kind, scale = int(terms.kinds[row]), terms.scales[row]
    vectors_MD = F.normalize(head.weights[row, :count].double(), dim=1)
    betas_M = torch.zeros(count) if kind == LOG_MEAN_EXP else terms.betas[row, :count]
    rows = zip(vectors_MD, (terms.mix[row] * scale).tolist(), betas_M.tolist(), (terms.shifts[row] * scale).tolist())
    return SUM if count == 1 else kind, list(rows)


def _vectors(head: ClassHead) -> tuple[Tensor, Tensor]:
    """Unit rows ``[C, D]`` and factors ``[C]``, float64, of classes whose logit is a cosine to one vector."""
    rows = [_vector(head, row, "weights") for row in range(len(head))]
    return torch.stack([vector_D for vector_D, _ in rows]), torch.tensor([f for _, f in rows], dtype=torch.float64)


def _vector(head: ClassHead, row: int, rule: str) -> tuple[Tensor, float]:
    """The mean, or sum, of cosines to several vectors is a cosine to one: their mean, with its length for a factor."""
    kind, rows = _used(head, row)
    cache = any(beta for _, _, beta, _ in rows)
    if kind not in (SUM, MEAN) or cache or any(shift for *_, shift in rows):
        remedy = {"weights": "take the rule logits or max", "max": "take the rule logits"}[rule]
        what = "a cache" if cache else "the maximum or log-mean-exp of several vectors"
        raise UserError(f"text and boxes: class {head.names[row]!r} is {what}, which the rule {rule} has no place for; "
                        f"{remedy}, or make it a prototype")
    if len(rows) == 1:
        return rows[0][:2]
    sum_D = sum(factor * vector_D for vector_D, factor, *_ in rows) / (len(rows) if kind == MEAN else 1)
    return F.normalize(sum_D, dim=0), float(sum_D.norm())


def _terms_of(head: ClassHead, row: int, rule: str, share: float = 1.0) -> list[_Term]:
    """A class's terms times ``share``, to be summed or compared with another's."""
    kind, rows = _used(head, row)
    if rule == "max" and kind in (SUM, MEAN) and len(rows) > 1:
        return [(*_vector(head, row, rule), 0.0, 0.0)]
    if kind == LOG_MEAN_EXP or (rule == "logits" and kind == MAX):
        raise UserError(f"text and boxes: class {head.names[row]!r} is the maximum or log-mean-exp of several vectors, "
                        f"which the rule {rule} has no place for; make it a prototype or a cache")
    share = share / len(rows) if kind == MEAN else share
    return [(vector_D, factor * share, beta, shift * share) for vector_D, factor, beta, shift in rows]


def _from_lists(text: ClassHead, lists: list[list[_Term]], kind: int, bias: Tensor | None) -> ClassHead:
    """A mixed head from each class's terms."""
    counts = [len(rows) for rows in lists]
    weights_CMD = torch.zeros(len(text), max(counts), text.dim, dtype=torch.float64)
    terms = Terms.of(len(text), max(counts), "single", text.scale)
    for row, class_terms in enumerate(lists):
        for place, (vector_D, factor, beta, shift) in enumerate(class_terms):
            weights_CMD[row, place] = vector_D
            terms.mix[row, place], terms.betas[row, place] = factor / text.scale, beta
            terms.shifts[row, place] = shift / text.scale if shift else -0.0
    return replace(text, weights=weights_CMD, reduce="mixed", beta=None, bias=bias, counts=torch.tensor(counts),
                   terms=replace(terms, kinds=torch.full((len(text),), kind)))
