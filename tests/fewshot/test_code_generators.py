"""Code generators against slow loops over classes and shots, and what must hold of every one of them."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS

from ovd.errors import UserError
from ovd.fewshot.hypernetworks import (
    CodeGenerator,
    ConvolutionalCodeGenerator,
    OnceCodeGenerator,
    TransformerCodeGenerator,
)
from ovd.fewshot.hypernetworks.auxiliary_losses import distillation_loss, soft_nearest_neighbour_loss
from ovd.fewshot.hypernetworks.level_fusion import LevelFusion

IN, OUT, SIZE = 16, 24, 5
OPTIONS = {
    "plain": {},
    "shot weights": {"shot_weights": True},
    "class norm": {"class_norm": True},
    "max mix": {"max_mix": True},
    "no post norm": {"post_norm": False},
    "no l2": {"l2_norm": False, "scale": None},
    "no scale": {"scale": None},
    "large scale": {"scale": 7.0},
    "no bias": {"bias": False},
    "prior alone": {"predict_bias": False, "prior": 0.2},
    "learned prior": {"learn_prior": True},
    "bias norm": {"bias_l2_norm": True},
    "no relu": {"tower_relu": False, "tower_convs": 1},
    "no tower": {"tower_convs": 0},
    "unit": {"unit": True},
    "everything": {"shot_weights": True, "class_norm": True, "max_mix": True, "learn_prior": True,
                   "bias_l2_norm": True, "scale": 3.0},
}
TRANSFORMERS = {
    "plain": {},
    "no fusion": {"fusion": False},
    "no linear layers": {"tokenizer_fcs": 0, "token_channels": 32},
    "no convolutions": {"tokenizer_convs": 0, "tokenizer_fcs": 1},
    "no hidden layer": {"head_fcs": 0},
    "no bias": {"bias": False},
    "unit": {"unit": True},
}


def randomised(generator: CodeGenerator) -> CodeGenerator:
    """With parameters of ordinary size, so that no part of a formula is lost in rounding."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return generator


def convolutional(**options) -> ConvolutionalCodeGenerator:
    return randomised(ConvolutionalCodeGenerator(IN, OUT, norm_groups=4, **options))


def transformer(**options) -> TransformerCodeGenerator:
    settings = {"roi_size": SIZE, "token_channels": 16, "heads": 2, "norm_groups": 4, "head_channels": 20, **options}
    return randomised(TransformerCodeGenerator(IN, OUT, **settings))


GENERATORS = {
    **{f"convolutional, {name}": partial(convolutional, **options) for name, options in OPTIONS.items()},
    **{f"transformer, {name}": partial(transformer, **options) for name, options in TRANSFORMERS.items()},
    "once": lambda: randomised(OnceCodeGenerator(IN, OUT)),
}
every_generator = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)


def shots(class_of_S: list[int], channels: int = IN, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(class_of_S), channels, SIZE, SIZE, generator=generator), torch.tensor(class_of_S)


def slow_convolutional(generator: ConvolutionalCodeGenerator, features, class_of_S, num_classes):
    """The formulas of the docstring, class by class, shot by shot, number by number."""
    weights, biases = [], []
    for label in range(num_classes):
        codes, numbers, scores, lengths = [], [], [], []
        for shot in (class_of_S == label).nonzero()[:, 0].tolist():
            x = generator.tower(features[shot][None])
            codes.append(generator.code(x)[0].flatten(1).mean(1))
            if generator.bias is not None:
                flat = generator.bias(x).flatten()
                if generator.bias_l2_norm:
                    flat = flat / flat.square().sum().sqrt()
                numbers.append(flat.sum() / len(flat))
            if generator.shot_weight is not None:
                scores.append(generator.shot_weight(x).mean())
            if generator.norm is not None:
                lengths.append(generator.norm(x).mean())
        k = len(codes)
        share = [1 / k] * k
        if scores:
            total = sum(math.exp(score) for score in scores)
            share = [math.exp(score) / total for score in scores]
        w = sum(a * z for a, z in zip(share, codes))
        if generator.mix is not None:
            largest = torch.stack(codes).max(dim=0).values
            w = generator.mix[0] * w + generator.mix[1] * largest
        if generator.post_norm is not None:
            groups = w.reshape(generator.post_norm.num_groups, -1)
            mean, var = groups.mean(1, keepdim=True), groups.var(1, unbiased=False, keepdim=True)
            w = ((groups - mean) / (var + generator.post_norm.eps).sqrt()).flatten()
            w = w * generator.post_norm.weight + generator.post_norm.bias
        if generator.l2_norm:
            w = w / w.square().sum().sqrt()
        if lengths:
            w = w * math.exp(sum(a * n for a, n in zip(share, lengths)))
        if generator.scale is not None:
            w = w * generator.scale
        weights.append(w)
        if generator.prior is not None:
            predicted = generator.bias_scale * sum(a * b for a, b in zip(share, numbers)) if numbers else 0
            biases.append(predicted + generator.prior)
    return torch.stack(weights), torch.stack(biases) if biases else None


@pytest.mark.parametrize("training", (True, False), ids=("training", "evaluation"))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_convolutional_codes_follow_the_formulas(options, training):
    generator = convolutional(**options).train(training)
    features, labels = shots([2, 0, 0, 1, 2, 0, 2])
    codes = generator(features, labels, 3)
    weights, bias = slow_convolutional(generator, features, labels, 3)
    torch.testing.assert_close(codes.weights_CD, weights, rtol=1e-4, atol=1e-5)
    assert (codes.bias_C is None) == (bias is None)
    if bias is not None:
        torch.testing.assert_close(codes.bias_C, bias, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_once_codes_are_plain_means():
    generator = randomised(OnceCodeGenerator(IN, OUT))
    features, labels = shots([0, 1, 1])
    codes = generator(features, labels, 2)
    shot = generator.code(generator.tower(features)).mean(dim=(2, 3))
    torch.testing.assert_close(codes.weights_CD, torch.stack([shot[0], (shot[1] + shot[2]) / 2]))
    assert codes.bias_C is None


@pytest.mark.parametrize("options", TRANSFORMERS.values(), ids=TRANSFORMERS)
@torch.no_grad()
def test_transformer_attends_over_the_shots_of_a_class(options):
    """Each class by itself, without padding, layer by layer, attention written out."""
    generator = transformer(dropout=0.0, **options)
    features, labels = shots([1, 0, 1, 1, 2])
    codes = generator.train()(features, labels, 3)  # padded to three shots
    for label in range(3):
        x = generator.raw(features[labels == label]).codes_SD
        for layer in generator.encoder.layers:
            attention = layer.self_attn
            q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=1)
            heads = []
            for part in range(attention.num_heads):
                columns = slice(part * 8, part * 8 + 8) if x.shape[1] == 16 else slice(part * 16, part * 16 + 16)
                scores = q[:, columns] @ k[:, columns].T / math.sqrt(q[:, columns].shape[1])
                heads.append(scores.softmax(dim=1) @ v[:, columns])
            x = layer.norm1(x + attention.out_proj(torch.cat(heads, dim=1)))
            x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
        hidden = generator.head(x.mean(dim=0))
        weights = generator.code(hidden)
        weights = weights / weights.norm() if generator.unit else weights
        torch.testing.assert_close(codes.weights_CD[label], weights, rtol=1e-4, atol=1e-5)
        if generator.bias is not None:
            torch.testing.assert_close(codes.bias_C[label], generator.bias(hidden)[0] - math.log(99), rtol=1e-4,
                                       atol=1e-5)


@every_generator
@torch.no_grad()
def test_a_class_does_not_change_another_to_the_bit(make):
    generator = make().eval()
    features, labels = shots([0, 1, 1, 2, 1, 2, 0])
    alone = generator(features[labels == 1], labels[labels == 1] - 1, 1)
    together = generator(features, labels, 3)
    assert torch.equal(alone.weights_CD[0], together.weights_CD[1])
    if together.bias_C is not None:
        assert torch.equal(alone.bias_C[0], together.bias_C[1])


@every_generator
@settings(max_examples=3, deadline=None)
@given(order=st.permutations(range(6)))
@torch.no_grad()
def test_the_order_of_shots_does_not_matter(make, order):
    generator = make().eval()
    features, labels = shots([0, 1, 1, 0, 1, 1])
    codes, shuffled = generator(features, labels, 2), generator(features[list(order)], labels[list(order)], 2)
    torch.testing.assert_close(codes.weights_CD, shuffled.weights_CD, rtol=1e-4, atol=1e-6)


@every_generator
def test_every_parameter_learns(make):
    generator = make().train()
    features, labels = shots([0, 1, 1, 1])
    codes = generator(features, labels, 2)
    direction = torch.randn(OUT, generator=torch.Generator().manual_seed(0))
    (codes.weights_CD @ direction + (0 if codes.bias_C is None else codes.bias_C)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_scales_at_the_start():
    """Codes of length gamma and the prior's bias; without predictions nothing else is in them."""
    features, labels = shots([0, 1, 1])
    torch.manual_seed(0)
    codes = ConvolutionalCodeGenerator(IN, OUT, norm_groups=4, scale=5.0).eval()(features, labels, 2)
    torch.testing.assert_close(codes.weights_CD.norm(dim=1), torch.full((2,), 5.0))
    assert codes.bias_C.tolist() == pytest.approx([-math.log(99)] * 2, abs=0.05)
    unit = ConvolutionalCodeGenerator(IN, OUT, norm_groups=4, unit=True).eval()(features, labels, 2)
    torch.testing.assert_close(unit.weights_CD.norm(dim=1), torch.ones(2))
    assert unit.bias_C is None


@pytest.mark.parametrize("make", (
    lambda: ConvolutionalCodeGenerator(IN, OUT, levels=3, norm_groups=4),
    lambda: TransformerCodeGenerator(IN, OUT, levels=3, norm_groups=4, roi_size=SIZE, token_channels=16, heads=2)))
@torch.no_grad()
def test_features_of_several_levels_are_fused(make):
    generator = randomised(make()).eval()
    features, labels = shots([0, 1, 1], channels=3 * IN)
    codes = generator(features, labels, 2)
    changed = features.clone()
    changed[0, -1] += 1  # of the last level
    assert not torch.equal(generator(changed, labels, 2).weights_CD[0], codes.weights_CD[0])


@torch.no_grad()
def test_level_fusion_mixes_by_attention():
    fusion = randomised(LevelFusion(IN, levels=2, groups=4))
    features, _ = shots([0, 0], channels=2 * IN)
    a, b = features[:, :IN], features[:, IN:]
    attention = fusion.attention[0]
    narrow = attention.places(a + b) + attention.average(a + b)
    share = 1 / (1 + (-narrow).exp())
    torch.testing.assert_close(fusion(features), share * a + (1 - share) * b)
    assert attention.average(a).shape == (2, IN, 1, 1)


@torch.no_grad()
def test_one_level_is_fused_with_scaled_convolutions_of_it():
    fusion = LevelFusion(IN, levels=1, groups=4)
    assert fusion.convs.scales.tolist() == [0.5, 0.5]
    features, _ = shots([0])
    first = fusion.convs.convs[0](features)
    torch.testing.assert_close(fusion.convs(features), 0.5 * first + 0.5 * fusion.convs.convs[1](first))


@settings(max_examples=10, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=9), temperature=st.floats(0.05, 2),
       seed=st.integers(0, 9))
def test_soft_nearest_neighbour_loss_is_the_papers(labels, temperature, seed):
    codes = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(seed))
    terms = []
    for i, label in enumerate(labels):
        near = total = 0.0
        for j, other in enumerate(labels):
            if j != i:
                apart = (codes[i] / codes[i].norm() - codes[j] / codes[j].norm()).square().sum().item()
                total += math.exp(-apart / temperature)
                near += math.exp(-apart / temperature) * (label == other)
        if near:
            terms.append(-math.log(near / total))
    expected = sum(terms) / len(terms) if terms else 0.0
    found = soft_nearest_neighbour_loss(codes, torch.tensor(labels), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_contrastive_loss_is_of_training_only():
    generator = convolutional(contrastive={"weight": 2.0, "temperature": 0.5})
    features, labels = shots([0, 0, 1])
    codes = generator.train()(features, labels, 2)
    expected = 2 * soft_nearest_neighbour_loss(generator.raw(features).codes_SD, labels, 0.5)
    torch.testing.assert_close(codes.losses["loss_contrastive"], expected)
    assert not generator.eval()(features, labels, 2).losses


def test_distillation_is_the_mean_difference():
    codes, rows = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    bias, target = torch.tensor([-4.0, -5.0]), torch.tensor([-4.5, -5.0])
    assert float(distillation_loss(codes, bias, rows, target)) == pytest.approx(1.0 + 0.25)
    assert float(distillation_loss(codes, None, rows)) == pytest.approx(1.0)


@pytest.mark.parametrize(("labels", "num_classes", "channels", "message"), (
    ([0, 2], 3, IN, "class 1 of 3 has no support box"),
    ([0, 3], 3, IN, "labels 0 to 3 for 3 classes"),
    ([0], 1, IN + 1, "needed are [shots, 16, h, w]"),
    ([], 1, IN, "class 0 of 1 has no support box")))
def test_wrong_supports_are_refused(labels, num_classes, channels, message):
    generator = convolutional()
    features, class_of_S = torch.zeros(len(labels), channels, SIZE, SIZE), torch.tensor(labels, dtype=torch.long)
    with pytest.raises(UserError) as error:
        generator(features, class_of_S, num_classes)
    assert message in str(error.value)


@pytest.mark.parametrize("options", (
    {"unit": True, "l2_norm": False}, {"unit": True, "class_norm": True}, {"l2_norm": False}, {"norm_groups": None},
    {"prior": 0.0}))
def test_options_that_contradict_each_other_are_refused(options):
    with pytest.raises(UserError):
        ConvolutionalCodeGenerator(IN, OUT, **{"norm_groups": 4, **options})


def test_generators_are_built_by_name():
    for name in ("ConvolutionalCodeGenerator", "TransformerCodeGenerator", "OnceCodeGenerator"):
        assert isinstance(MODELS.build({"type": name, "in_channels": 32, "out_channels": 32}), CodeGenerator)
