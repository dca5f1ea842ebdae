"""Heads of all episodes at once against the class heads that the same supports make, one episode at a time."""

import numpy as np
import pytest
import torch

from ovd.fewshot.episodic import fitted, training_free
from ovd.fewshot.episodic.episodes import sample_episodes
from ovd.fewshot.episodic.heads import HEADS, Head, get_head, register
from ovd.fewshot.episodic.objects import EmbeddedObjects
from ovd.fewshot.episodic.tasks import blocks
from ovd.fewshot.sources import METHODS, from_supports
from ovd.stores.class_heads import ClassHead

SCALE = 100.0
NAMES = tuple(f"class {number}" for number in range(7))


def clusters(dim: int = 40, each: int = 14, noise: float = 0.8, seed: int = 0) -> EmbeddedObjects:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(NAMES)), each))
    centres = rng.normal(size=(len(NAMES), dim))
    rows = centres[labels] + noise * rng.normal(size=(len(labels), dim)) * dim ** 0.5 / 2
    return EmbeddedObjects(NAMES, labels, rows.astype(np.float32))


def text_head(dim: int = 40) -> ClassHead:
    return ClassHead(NAMES, np.random.default_rng(5).normal(size=(len(NAMES), 1, dim)), scale=SCALE)


def both(objects, name, *, shot, with_text=False, as_settings=lambda s: s, **settings):
    """Scores of all queries by the head of the table, and the logits of a class head for each episode."""
    episodes = sample_episodes(objects.labels_N, objects.names, way=4, shot=shot, query=5, episodes=6, seed=3)
    text = text_head(objects.dim) if with_text else None
    texts = None if text is None else text.logits(objects.unit_rows(np.arange(len(objects)))).numpy()
    head, batched, single = get_head(name), [], []
    method, fixed = head.method
    for tasks in blocks(objects, episodes, texts, size=4):
        batched += head.scores(tasks, **settings)
        for place, number in enumerate(tasks.numbers):
            names = [objects.names[label] for label in episodes.classes_EN[number]]
            extra = {"seed": tasks.fit_seed(number)} if "tau" in settings or name == "tip-f" else {}
            extra = {} if name == "matching" else extra
            alone = from_supports(tasks.support_ESD[place], tasks.label_S, names, method, scale=SCALE,
                                  **({"text": text.select(names)} if text else {}), **fixed, **as_settings(settings),
                                  **extra)
            single.append(alone.logits(tasks.query_EQD[place]))
    return torch.stack(batched), torch.stack(single)


def test_prototypes_agree_with_class_heads():
    batched, single = both(clusters(), "prototype", shot=3)
    torch.testing.assert_close(batched / 10, single / SCALE, atol=1e-5, rtol=0)
    batched, single = both(clusters(), "prototype-euclid", shot=3)
    torch.testing.assert_close(batched, single / SCALE, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tau", [100.0, 5.0])
def test_matching_agrees_with_class_heads(tau):
    batched, single = both(clusters(), "matching", shot=3, tau=tau)
    torch.testing.assert_close(batched / tau, single / SCALE, atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("name", ["tip", "tip-f"])
def test_caches_agree_with_class_heads(name, with_text):
    fit = {"lr": 0.3, "iterations": 20} if name == "tip-f" else {}
    batched, single = both(clusters(), name, shot=3, with_text=with_text, alpha=2.0, beta=4.0, **fit)
    torch.testing.assert_close(batched, single, atol=2e-3, rtol=1e-3)
    if fit:
        unfitted, _ = both(clusters(), "tip", shot=3, with_text=with_text, alpha=2.0, beta=4.0)
        assert (batched - unfitted).abs().max() > 0.01


@pytest.mark.parametrize(("dim", "shot"), [(40, 3), (10, 3), (40, 1)], ids=["in the span", "all axes", "one shot"])
@pytest.mark.parametrize(("name", "settings"), [
    ("linear", {}), ("cosine", {}), ("negative-margin", {"margin": -0.3})], ids=lambda value: str(value))
def test_fits_agree_with_class_heads(dim, shot, name, settings):
    batched, single = both(clusters(dim), name, shot=shot, tau=5.0, lr=1.0, iterations=40, **settings)
    torch.testing.assert_close(batched, single / SCALE, atol=1e-4, rtol=1e-3)
    if shot > 1:  # a prototype of one vector is that vector: its fit has nowhere to go
        start, _ = both(clusters(dim), name, shot=shot, tau=5.0, lr=1e-9, iterations=1, **settings)
        assert (batched - start).abs().max() > 0.01


def test_negative_margin_without_a_margin_is_another_head():
    batched, _ = both(clusters(), "negative-margin", shot=3, tau=15.0, lr=0.2, margin=-0.3)
    other, _ = both(clusters(), "negative-margin", shot=3, tau=15.0, lr=0.2, margin=0.0)
    assert (batched - other).abs().max() > 1e-3


def test_a_linear_fit_is_that_of_a_plain_loop():
    """The protocol written out with torch's own optimiser, on all axes."""
    objects = clusters()
    episodes = sample_episodes(objects.labels_N, objects.names, way=3, shot=2, query=4, episodes=3, seed=1)
    tasks = next(blocks(objects, episodes))
    found = fitted.linear(tasks)
    for place, number in enumerate(tasks.numbers):
        layer = torch.nn.Linear(objects.dim, 3)
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        sgd = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
        rng, waiting = torch.Generator().manual_seed(tasks.fit_seed(number)), []
        for _ in range(150):
            while len(waiting) < 4:
                waiting += torch.randperm(6, generator=rng).tolist()
            picked, waiting = waiting[:4], waiting[4:]
            logits = 10 * layer(tasks.support_ESD[place, picked])
            loss = torch.nn.functional.cross_entropy(logits, tasks.label_S[picked])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        torch.testing.assert_close(found[place], layer(tasks.query_EQD[place]).detach(), atol=1e-4, rtol=1e-3)


def test_all_methods_of_class_heads_are_heads_of_episodes():
    assert {head.method[0] for head in HEADS.values() if head.method} == set(METHODS)


def test_text_alone_is_the_class_head():
    objects, head = clusters(), text_head()
    texts = head.logits(objects.unit_rows(np.arange(len(objects)))).numpy()
    episodes = sample_episodes(objects.labels_N, objects.names, way=3, shot=1, query=2, episodes=2, seed=0)
    tasks = next(blocks(objects, episodes, texts))
    expected = head.logits(tasks.query_EQD[1])[:, episodes.classes_EN[1]]
    torch.testing.assert_close(training_free.text(tasks)[1], expected, atol=1e-3, rtol=0)


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="there is a head 'tip'"):
        register("tip", Head(training_free.text))
