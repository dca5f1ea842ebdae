"""Classes from support vectors: each method against its formula, fits that are repeatable, inputs that are refused."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.fewshot.sources import METHODS, from_supports
from ovd.fewshot.sources.fit import Fit, Rivals, _batches
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead

DIM = 12
NAMES = ("owl", "fox", "elk")
CLASSES = torch.tensor([2, 0, 1, 1, 2, 2])  # 1, 2 and 3 shots
SPACE = {"clip": "sha256:1"}
FITTED = ("tip-f", "linear", "cosine", "negative-margin")


def vectors(seed=0, count=6) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) * 2


def make(method, **more) -> ClassHead:
    return from_supports(vectors(), CLASSES, NAMES, method, **{"stats": SPACE, "scale": 30.0, **more})


def text_head(names=("fox", "owl", "cat"), **form) -> ClassHead:
    rng = torch.Generator().manual_seed(4)
    return ClassHead(names, torch.randn(len(names), 1, DIM, generator=rng), **{"scale": 30.0, "stats": SPACE, **form})


X = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))


def unit(v) -> np.ndarray:
    v = np.asarray(v, dtype=np.float64)
    return v / math.sqrt((v * v).sum())


def shots_of(label: int) -> list[np.ndarray]:
    return [unit(v) for v, c in zip(vectors().tolist(), CLASSES.tolist()) if c == label]


def slow(formula) -> torch.Tensor:
    """``formula(x, shots)`` of each unit region and each class, one at a time."""
    return torch.tensor([[formula(unit(x), shots_of(label)) for label in range(3)] for x in X.tolist()],
                        dtype=torch.float64)


def test_prototypes_are_means_of_unit_vectors():
    expected = slow(lambda x, shots: 30 * float(x @ unit(sum(shots) / len(shots))))
    torch.testing.assert_close(make("prototype").logits(X).double(), expected, rtol=1e-4, atol=1e-4)


def test_euclidean_prototypes_are_as_far_as_the_mean_is():
    x_unit = F.normalize(X, dim=1)
    expected = slow(lambda x, shots: -30 * math.sqrt(((x - sum(shots) / len(shots)) ** 2).sum()))
    head = make("prototype", norm="euclid")
    torch.testing.assert_close(head.logits(x_unit).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", [None, 30.0, 4.0])
def test_matching_is_the_log_of_a_mean_over_shots(tau):
    def formula(x, shots):
        sharp = tau or 30.0
        return 30 * math.log(sum(math.exp(sharp * float(x @ v)) for v in shots) / len(shots)) / sharp

    head = make("matching", tau=tau)
    torch.testing.assert_close(head.logits(X).double(), slow(formula), rtol=1e-4, atol=1e-4)
    assert head.reduce == ("mixed" if tau == 4.0 else "log_mean_exp")


@pytest.mark.parametrize("alpha, beta", [(1.0, 5.5), (3.0, 1.2)])
@pytest.mark.parametrize("text", [None, text_head(), text_head(scale=12.0, bias=[-1.0, 2.0, 0.5])])
def test_a_cache_is_added_to_the_logits_of_the_text(alpha, beta, text):
    expected = slow(lambda x, shots: alpha * sum(math.exp(-beta * (1 - float(x @ v))) for v in shots))
    if text is not None:
        by_text = text.logits(X).double()
        expected[:, 0] += by_text[:, 1]
        expected[:, 1] += by_text[:, 0]
    head = make("tip", alpha=alpha, beta=beta, text=text)
    torch.testing.assert_close(head.logits(X).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_sigmoid_clips_bias_is_on_every_class_once():
    text = text_head(bias=[-10.0] * 3)
    for method, more in (("prototype", {}), ("tip", {"text": text}), ("matching", {})):
        assert make(method, bias=-10.0, **more).bias.tolist() == [-10.0] * 3
    linear = make("linear", bias=-10.0, iterations=9)
    torch.testing.assert_close(linear.bias, make("linear", iterations=9).bias - 10, rtol=1e-5, atol=1e-5)


def slow_fit(method: str, s: Supports, base: ClassHead | None, rows_bg: torch.Tensor, settings: Fit, tau: float,
             margin: float, text: ClassHead | None) -> torch.Tensor:
    """The fit written out: one row at a time, the descent by hand (momentum with dampening, decay), in float64.

    Gives the logits of X for the added classes.
    """
    x_all, bg = s.vectors_SD.double(), F.normalize(rows_bg, dim=1).double()
    if method == "linear":
        free = [torch.zeros(3, DIM).double(), torch.zeros(3).double()]
    elif method == "tip-f":
        free = [x_all.clone()]
    else:
        free = [torch.stack([F.normalize(x_all[s.class_of_S == c].mean(0), dim=0) for c in range(3)])]
        free += [torch.ones(3).double()] if method == "cosine" else []
    own_row = len(bg) > 0 and (base is None or base.background is None)
    if own_row:
        free.append(bg.mean(0))
    momentum = [torch.zeros_like(p) for p in free]

    def scores(x, c):
        if method == "linear":
            return x @ free[0][c] + free[1][c]
        if method == "tip-f":
            heat = sum(torch.exp(-5.5 * (1 - x @ F.normalize(key, dim=0)))
                       for key, owner in zip(free[0], s.class_of_S.tolist()) if owner == c)
            by_text = 0.0
            if text is not None and NAMES[c] in text.names:
                by_text = x @ F.normalize(text.select([NAMES[c]]).weights[0, 0].double(), dim=0)
            return by_text + heat / s.scale
        return (x @ F.normalize(free[0][c], dim=0)) * (free[1][c] if method == "cosine" else 1)

    rng = torch.Generator().manual_seed(settings.seed)
    ours, theirs = _batches(len(x_all), settings, rng), _batches(len(bg), settings, rng)
    for step, (rows, bg_rows) in enumerate(zip(ours, theirs)):
        free = [p.detach().requires_grad_() for p in free]
        losses = []
        for x, target in [*((x_all[i], int(s.class_of_S[i])) for i in rows), *((bg[i], -1) for i in bg_rows)]:
            columns = [scores(x, c) - (margin if c == target else 0) for c in range(3)]
            if base is not None:
                kept = [i for i, name in enumerate(base.names) if name not in NAMES]
                directions = F.normalize(base.weights[:, 0].double(), dim=1)
                columns += [x @ directions[i] for i in kept]
                columns += [x @ F.normalize(base.background.double(), dim=0)] if base.background is not None else []
            columns += [x @ F.normalize(free[-1], dim=0)] if own_row else []
            losses.append(-F.log_softmax(tau * torch.stack(columns), 0)[target])
        torch.stack(losses).mean().backward()
        for i, p in enumerate(free):
            slope = p.grad + settings.weight_decay * p.detach()
            momentum[i] = slope if step == 0 else settings.momentum * momentum[i] + (1 - settings.dampening) * slope
        free = [p.detach() - settings.lr * m for p, m in zip(free, momentum)]
    return s.scale * torch.tensor([[float(scores(F.normalize(x, dim=0).double(), c)) for c in range(3)] for x in X])


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("rivals", ["none", "base", "background", "both", "row"])
def test_fits_follow_the_written_out_descent(method, rivals):
    base = None
    if rivals in ("base", "both", "row"):
        base = text_head(("owl", "cat", "dog"), background=torch.arange(DIM) - 3.0 if rivals == "row" else None)
    background = vectors(9, 7) if rivals in ("background", "both", "row") else torch.zeros(0, DIM)
    margin = {"margin": -0.2} if method == "negative-margin" else {}
    text = {"text": text_head()} if method == "tip-f" else {}
    protocol = Fit(iterations=12, lr=0.05, batch=4, seed=3)
    head = make(method, base=base, background_BD=background, tau=6.0, **margin, **text, **vars(protocol))
    expected = slow_fit(method, Supports(vectors(), CLASSES, NAMES, 30.0), base, background, protocol, 6.0,
                        margin.get("margin", 0.0), text.get("text"))
    torch.testing.assert_close(head.logits(X).double(), expected.double(), rtol=2e-4, atol=2e-4)
    assert head.background is None and (head.norm, head.scale) == ("cosine", 30.0)


@pytest.mark.parametrize("method", FITTED)
def test_a_fit_is_the_same_again_and_leaves_the_base_head_its_bits(method):
    base = text_head(("cat", "dog"))
    before = base.logits(X)
    a, b = (make(method, base=base, background_BD=vectors(3, 20), iterations=20, seed=5) for _ in range(2))
    other = make(method, base=base, background_BD=vectors(3, 20), iterations=20, seed=6)
    assert torch.equal(a.logits(X), b.logits(X)) and not torch.equal(a.logits(X), other.logits(X))
    assert torch.equal(base.concat(a).logits(X)[:, :2], before)
    assert a.provenance[2]["shots"] == 3 and a.provenance[0]["settings"]["seed"] == 5
    assert a.provenance[0]["settings"]["base"] == 2 and a.provenance[0]["settings"]["background"] == 20


@pytest.mark.parametrize("method", FITTED)
def test_fits_tell_supports_apart_that_prototypes_confuse(method):
    """Two classes a little to each side of a common direction; their supports are told apart after the fit."""
    rng = torch.Generator().manual_seed(0)
    side, common = torch.randn(DIM, generator=rng), 8 * torch.randn(DIM, generator=rng)
    labels = torch.arange(2).repeat_interleave(10)
    rows = common + (2.0 * labels[:, None] - 1) * side + 1.5 * torch.randn(20, DIM, generator=rng)

    def loss(**more):
        head = from_supports(rows, labels, ("left", "right"), method, scale=30.0, tau=30.0, **more)
        return float(F.cross_entropy(head.logits(rows), labels))

    assert loss(iterations=200, lr=0.05) < 0.9 * loss(iterations=0)


def test_directions_start_from_names_where_there_are_names():
    text = text_head()
    head = make("cosine", init=text, iterations=0)
    for row, name in enumerate(NAMES):
        start = text.select([name]).weights[0, 0] if name in text.names else make("prototype").weights[row, 0]
        torch.testing.assert_close(head.weights[row, 0], F.normalize(start, dim=0))


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 40), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_every_vector_is_seen_as_often_as_any_other(count, batch, iterations, seed):
    fit = Fit(iterations=iterations, batch=batch, seed=seed)
    batches = _batches(count, fit, torch.Generator().manual_seed(seed))
    assert len(batches) == iterations and all(len(rows) == min(batch, count) for rows in batches)
    if iterations:
        seen = torch.bincount(torch.cat(batches), minlength=count)
        assert int(seen.max() - seen.min()) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_heads_stand_beside_text_and_say_where_they_come_from(method):
    protocol = {"iterations": 3} if method in FITTED else {}
    head = make(method, provenance=[{"image": name} for name in NAMES], **protocol)
    assert head.names == NAMES and head.space == "sha256:1" and head.scale == 30.0
    assert [p["shots"] for p in head.provenance] == [1, 2, 3]
    assert [(p["method"], p["image"]) for p in head.provenance] == [(method, name) for name in NAMES]
    text = text_head(("cat", "dog"))
    assert torch.equal(text.concat(head).logits(X)[:, :2], text.logits(X))


def test_the_scale_is_that_of_the_head_beside_it():
    assert make("tip", scale=None, text=text_head(scale=14.0)).scale == 14.0
    assert make("linear", scale=None, base=text_head(scale=14.0), iterations=1).scale == 14.0
    assert make("prototype", scale=None).scale == 100.0


def bad(rows=None, classes=CLASSES, names=NAMES, method="prototype", **more):
    return (vectors() if rows is None else rows, classes, names, method), more


NAN = torch.where(torch.arange(6)[:, None] == 3, torch.nan, vectors())
ZERO = torch.where(torch.arange(6)[:, None] == 2, 0.0, vectors())
TWO = ClassHead(("a",), torch.ones(1, 2, DIM), reduce="max", stats=SPACE)
OPPOSITE = torch.cat([torch.eye(DIM)[:1], -torch.eye(DIM)[:1], torch.eye(DIM)[1:2]])


@pytest.mark.parametrize("call, message", [
    (bad(names=(*NAMES, "yak")), "class 'yak' has none; give it at least one box"),
    (bad(names=("owl", "fox", "owl")), "'owl' occurs twice"),
    (bad(names=()), "no classes"),
    (bad(names=NAMES[:2]), "class of number 0 or 2, but there are 2 names"),
    (bad(rows=NAN), "vector 3, of class 'fox', has NaN"),
    (bad(rows=ZERO), "vector 2, of class 'fox', has NaN or infinity, or is zero"),
    (bad(rows=vectors()[:4]), r"shape \[4, 12\] with classes of shape \[6\]"),
    (bad(rows=OPPOSITE, classes=torch.tensor([0, 0, 1]), names=NAMES[:2]), "vector of class 'owl' is zero"),
    (bad(provenance=[{}]), "provenance of 1 classes"),
    (bad(method="prototyp"), "unknown method 'prototyp' .* did you mean prototype"),
    (bad(beta=1.0), "'prototype': unknown setting 'beta'"),
    (bad(method="cosine", iteration=3), "unknown setting 'iteration'; did you mean iterations"),
    (bad(norm="cosin"), "unknown norm 'cosin'"),
    (bad(method="matching", tau=0.0), "tau 0.0"),
    (bad(method="tip", alpha=-1.0), "alpha -1.0"),
    (bad(method="tip", beta=math.nan), "beta nan"),
    (bad(method="tip-f", tau=-1.0), "tau -1.0"),
    (bad(method="linear", lr=-1.0), "lr -1.0"),
    (bad(method="linear", batch=0), "batch 0"),
    (bad(method="linear", iterations=1.5), "iterations 1.5"),
    (bad(method="linear", lr=1e30), "diverged"),
    (bad(method="negative-margin", margin=2.0), "margin 2.0"),
    (bad(method="tip", text=text_head(stats={"clip": "other"})), "text head is of the embedding space other"),
    (bad(method="cosine", base=text_head(stats={"space": "fcos:1"})), "base head is of the embedding space fcos:1"),
    (bad(method="cosine", base=text_head(norm="linear")), "base head goes by norm linear"),
    (bad(method="cosine", init=ClassHead(("a",), torch.ones(1, 1, 5), stats=SPACE)), "width 5, needed is 12"),
    (bad(method="tip", text=TWO), "has the form max"),
    (bad(method="cosine", init=TWO), "2 vectors a class"),
    (bad(method="cosine", background_BD=torch.ones(3, 5)), r"background rows of shape \[3, 5\]"),
    (bad(method="cosine", background_BD=torch.full((3, DIM), torch.nan)), "background rows have NaN"),
])
def test_supports_that_make_no_class_are_refused_in_one_line(call, message):
    args, more = call
    with pytest.raises(UserError, match=message) as caught:
        from_supports(*args, **{"stats": SPACE, **more})
    assert "\n" not in str(caught.value)


def test_every_method_takes_supports_and_settings_by_keyword():
    for method in METHODS.values():
        first, *others = inspect.signature(method).parameters.values()
        assert first.name == "supports" and all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in others)


def test_a_base_head_of_the_added_classes_alone_is_no_rival():
    rivals = Rivals.of(Supports(vectors(), CLASSES, NAMES, 30.0, SPACE), text_head(("owl", "fox")), None)
    assert rivals.of_supports_SR.shape == (6, 0) and rivals.record == {"base": 0, "background": 0}
