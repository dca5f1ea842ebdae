"""Classes of different forms in one head: logits by the formula, bits that no other class changes, files."""

import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.head_forms import KINDS, LOG_MEAN_EXP, MAX, MEAN, Terms

REDUCTIONS = ("single", "mean_logit", "max", "exp_sum", "log_mean_exp", "mixed")
DIM = 24


def random_head(reduce: str, prefix: str, seed: int, classes: int = 3, scale: float = 100.0, **form) -> ClassHead:
    """Of ``reduce`` with ragged lists; the classes of a mixed one are of all kinds, with factors and kernels."""
    rng = torch.Generator().manual_seed(seed)
    vectors = 1 if reduce == "single" else 3
    terms = None
    if reduce == "mixed":
        kinds = torch.randint(0, len(KINDS), (classes,), generator=rng)
        betas = torch.rand(classes, vectors, generator=rng).round(decimals=1) * 5 + 0.5
        kernel = (torch.rand(classes, vectors, generator=rng) < 0.5) | (kinds == LOG_MEAN_EXP)[:, None]
        terms = Terms(kinds, torch.rand(classes, generator=rng).double() * 30 + 1 / 3,
                      torch.randn(classes, vectors, generator=rng).double() / 3, betas.double() * kernel,
                      torch.randn(classes, vectors, generator=rng).double() / 5 if seed % 3 else None)
    weights = torch.randn(classes, vectors, DIM, generator=rng)
    counts = None if reduce == "single" else torch.randint(1, vectors + 1, (classes,), generator=rng)
    bias = torch.randn(classes, generator=rng) if seed % 2 else None
    return ClassHead(tuple(f"{prefix} {i}" for i in range(classes)), weights, bias=bias, scale=scale, reduce=reduce,
                     beta=5.5 if reduce == "exp_sum" else None, counts=counts, terms=terms, **form)


def regions(seed: int = 0, count: int = 7) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def slow_logits(head: ClassHead, x: torch.Tensor) -> np.ndarray:
    """By the definition of a head's terms, one number at a time, in double precision."""
    terms, x, weights = head.as_terms(), x.double().numpy(), head.weights.double().numpy()
    result = np.zeros((len(x), len(head)))
    for n, c in np.ndindex(*result.shape):
        values = []
        for m in range(weights.shape[1] if head.counts is None else int(head.counts[c])):
            cosine = x[n] @ weights[c, m] / math.sqrt(x[n] @ x[n]) / math.sqrt(weights[c, m] @ weights[c, m])
            beta = float(terms.betas[c, m])
            if beta and terms.kinds[c] != LOG_MEAN_EXP:
                cosine = math.exp(-beta * (1 - cosine))
            values.append(float(terms.mix[c, m]) * cosine + float(terms.shifts[c, m]))
        tau = float(terms.betas[c, 0])
        value = {MEAN: sum(values) / len(values), MAX: max(values)}.get(int(terms.kinds[c]), sum(values))
        if terms.kinds[c] == LOG_MEAN_EXP:
            value = math.log(sum(math.exp(tau * v) for v in values) / len(values)) / tau
        result[n, c] = float(terms.scales[c]) * value + (0 if head.bias is None else float(head.bias[c]))
    return result


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_mixed_logits_follow_the_definition(seed):
    head, x = random_head("mixed", "a", seed, classes=6), regions(seed)
    np.testing.assert_allclose(head.logits(x).numpy(), slow_logits(head, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reduce", REDUCTIONS[:-1])
def test_a_plain_head_in_mixed_form_has_the_same_bits(reduce):
    for seed, scale in ((1, 100.0), (2, 14.3)):
        head, x = random_head(reduce, "a", seed, classes=70, scale=scale), regions()
        assert same_bits(head.as_mixed().logits(x), head.logits(x))


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(st.sampled_from(REDUCTIONS), st.sampled_from([100.0, 14.3]), st.integers(1, 80)),
                      min_size=2, max_size=4), regions_seed=st.integers(0, 99), count=st.integers(0, 40))
def test_classes_of_any_forms_side_by_side_keep_their_bits(parts, regions_seed, count):
    heads = [random_head(reduce, f"part {i}", regions_seed + i, classes, scale)
             for i, (reduce, scale, classes) in enumerate(parts)]
    x = regions(regions_seed, count)
    together = heads[0]
    for head in heads[1:]:
        together = together.concat(head)
    logits = together.logits(x)
    assert together.names == tuple(name for head in heads for name in head.names)
    place = 0
    for head in heads:
        assert same_bits(logits[:, place:place + len(head)], head.logits(x))
        place += len(head)
    assert same_bits(together.remove(heads[0].names).logits(x), logits[:, len(heads[0]):])
    assert same_bits(together.select(heads[-1].names).logits(x), heads[-1].logits(x))


def test_lists_as_long_as_a_cache_change_no_bit_of_a_name():
    text, x = random_head("single", "name", 0, classes=65), regions()
    shots = torch.randn(2, 40, DIM, generator=torch.Generator().manual_seed(3))
    cache = ClassHead(("a", "b"), shots, scale=100.0, reduce="exp_sum", beta=5.5, counts=torch.tensor([40, 7]))
    assert same_bits(text.concat(cache).logits(x)[:, :65], text.logits(x))
    assert same_bits(text.concat(cache).remove(["b"]).logits(x)[:, :65], text.logits(x))


def test_matching_is_the_mean_of_a_softmax_over_all_shots_up_to_what_classes_share():
    head, x = random_head("log_mean_exp", "a", 2, classes=4), regions()
    head = replace(head, bias=None)
    expected = np.zeros((len(x), 4))
    for n in range(len(x)):
        parts = [[math.exp(100 * float(torch.cosine_similarity(x[n].double(), head.weights[c, m].double(), dim=0)))
                  for m in range(int(head.counts[c]))] for c in range(4)]
        total = sum(map(sum, parts))
        expected[n] = [sum(part) / total / len(part) for part in parts]
    np.testing.assert_allclose(head.logits(x).softmax(1), expected / expected.sum(1, keepdims=True), rtol=1e-3,
                               atol=1e-6)


def test_opposite_shots_underflow_nothing():
    vectors = torch.nn.functional.normalize(torch.randn(1, 2, DIM), dim=-1)
    head = ClassHead(("a",), torch.cat([vectors, -vectors], 1), scale=200.0, reduce="log_mean_exp")
    assert torch.isfinite(head.logits(regions())).all()


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_mixed_logits_are_differentiable(reduce):
    head = random_head("mixed", "a", 4, classes=9).concat(random_head(reduce, "b", 3))
    x = regions(5, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(head.logits(x).square().sum(), x)
    assert torch.isfinite(gradient).all()
    step = 1e-3 * gradient / gradient.norm()
    before, after = ((slow_logits(head, x.detach() + sign * step) ** 2).sum() for sign in (-1, 1))
    assert (after - before) / 2 == pytest.approx(float((gradient * step).sum()), rel=2e-2)


@pytest.mark.parametrize("reduce", ["single", "mean_logit", "max", "log_mean_exp"])
def test_a_linear_head_by_cosines_gives_unit_embeddings_the_same_logits(reduce):
    head = replace(random_head(reduce, "a", 3, scale=1.0), norm="linear")
    head.weights[1, 0] = 0
    x = torch.nn.functional.normalize(regions(), dim=1)
    cosine = head.as_cosine(100.0)
    assert (cosine.norm, cosine.scale) == ("cosine", 100.0)
    torch.testing.assert_close(cosine.logits(x), head.logits(x), rtol=1e-4, atol=1e-4)
    text = random_head("single", "name", 0)
    assert same_bits(text.concat(cosine).logits(x)[:, :3], text.logits(x))
    assert text.as_cosine() is text
    with pytest.raises(UserError, match="euclid head have no form by cosines"):
        replace(random_head("single", "a", 0), norm="euclid").as_cosine()


def test_removing_is_by_name_and_leaves_at_least_one():
    head = random_head("mixed", "a", 1)
    assert head.remove(["a 1"]).names == ("a 0", "a 2")
    with pytest.raises(UserError, match="no class 'a 9'; did you mean"):
        head.remove(["a 9"])
    with pytest.raises(UserError, match="no class would remain"):
        head.remove(head.names)


@pytest.mark.parametrize("other", [{"scale": 3.0}, {"reduce": "max"}])
def test_linear_heads_of_different_forms_do_not_go_side_by_side(other):
    first = replace(random_head("mean_logit", "a", 0), norm="linear")
    second = replace(random_head(other.get("reduce", "mean_logit"), "b", 0, scale=other.get("scale", 100.0)),
                     norm="linear")
    with pytest.raises(UserError, match=r"differ; bring both to one|do not go side by side; .*as_cosine"):
        first.concat(second)


@pytest.mark.parametrize("reduce, schema", [("single", 1), ("exp_sum", 1), ("log_mean_exp", 2), ("mixed", 2)])
def test_only_files_with_new_forms_are_of_the_new_schema(tmp_path, reduce, schema):
    head = random_head(reduce, "a", 1, stats={"space": "fcos:1"})
    head.save(tmp_path / "head.safetensors")
    with safetensors.safe_open(tmp_path / "head.safetensors", "pt") as file:
        written = file.metadata()["class_head"]
    assert f'"schema":{schema}' in written.replace(" ", "") and "terms" not in written
    again = ClassHead.load(tmp_path / "head.safetensors")
    assert same_bits(again.logits(regions()), head.logits(regions())) and again.space == "fcos:1"


def test_a_file_whose_terms_do_not_fit_is_named(tmp_path):
    path = tmp_path / "head.safetensors"
    random_head("mixed", "a", 1).save(path)
    with safetensors.safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for change, message in ((("terms.betas", None), "is not a class head file"),
                            (("terms.more", torch.ones(3)), "is not a class head file"),
                            (("terms.kinds", torch.tensor([0, 1, 7])), "'a 2' has a kind that is none of")):
        changed = {name: value for name, value in {**tensors, change[0]: change[1]}.items() if value is not None}
        safetensors.torch.save_file(changed, path, metadata)
        with pytest.raises(UserError, match=rf"head\.safetensors: .*{message}"):
            ClassHead.load(path)


def test_a_matrix_has_no_place_for_factors(tmp_path):
    head = random_head("single", "a", 0)
    head.export(tmp_path / "head.pth")
    with pytest.raises(UserError, match=r"mixed\.pth: .* factors or kernels"):
        head.as_mixed().export(tmp_path / "mixed.pth")
