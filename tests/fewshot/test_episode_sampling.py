"""Episodes: what is drawn, and the accuracy with its interval."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.fewshot.episodic.episodes import sample_episodes
from ovd.fewshot.episodic.evaluation import evaluate, tune
from ovd.fewshot.episodic.heads import HEADS, get_head
from ovd.fewshot.episodic.objects import EmbeddedObjects

SIZES = {"way": 3, "shot": 2, "query": 4, "episodes": 8, "seed": 5}


def names(count):
    return [f"class {number}" for number in range(count)]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_an_episode_has_objects_of_its_classes_and_none_twice(way, shot, query, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(6), np.arange(8, 14)))
    drawn = sample_episodes(labels, names(6), way=way, shot=shot, query=query, episodes=5, seed=seed)
    assert drawn.support_ENK.shape == (5, way, shot) and drawn.query_ENQ.shape == (5, way, query)
    for classes, support, queries in zip(drawn.classes_EN, drawn.support_ENK, drawn.query_ENQ):
        assert len(set(classes.tolist())) == way
        together = np.concatenate([support, queries], axis=1)
        assert len(set(together.ravel().tolist())) == way * (shot + query)
        assert (labels[together] == classes[:, None]).all()


def test_fewer_shots_and_fewer_episodes_are_part_of_more():
    labels = np.repeat(np.arange(6), 300)
    more = sample_episodes(labels, names(6), **SIZES | {"shot": 7})
    fewer = sample_episodes(labels, names(6), **SIZES | {"episodes": 3})
    np.testing.assert_array_equal(fewer.classes_EN, more.classes_EN[:3])
    np.testing.assert_array_equal(fewer.query_ENQ, more.query_ENQ[:3])
    np.testing.assert_array_equal(fewer.support_ENK, more.support_ENK[:3, :, :2])
    other = sample_episodes(labels, names(6), **SIZES | {"seed": 6})
    assert (other.query_ENQ != more.query_ENQ).any()


def test_every_object_is_drawn_about_equally_often():
    labels = np.repeat(np.arange(4), 10)
    drawn = sample_episodes(labels, names(4), way=2, shot=1, query=1, episodes=4000, seed=0)
    for chosen in (drawn.support_ENK, drawn.query_ENQ):
        counts = np.bincount(chosen.ravel(), minlength=40)
        assert counts.min() > 140 and counts.max() < 260  # 200 each, within four deviations


@pytest.mark.parametrize(("change", "message"), [
    ({"way": 7}, "6 classes are too few for 7-way"),
    ({"shot": 17}, r"class 'class 0' has 20 objects, 17 shots and 4 queries need 21 \(6 classes"),
    ({"way": 1}, "--way 1: needs at least 2"), ({"shot": 0}, "--shot 0"), ({"query": 0}, "--query 0"),
    ({"episodes": 1}, "--episodes 1: needs at least 2")])
def test_numbers_that_make_no_episodes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        sample_episodes(np.repeat(np.arange(6), 20), names(6), **SIZES | change)


def objects(seed=0, noise=1.0, classes=6, offset=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 20)
    centres = np.random.default_rng(99 + offset).normal(size=(classes, 16))
    return EmbeddedObjects(tuple(f"{offset}-{name}" for name in names(classes)), labels,
                           (centres[labels] + noise * rng.normal(size=(len(labels), 16))).astype(np.float32))


def test_accuracy_and_interval_are_those_of_a_plain_loop():
    world = objects(noise=2.0)
    drawn = sample_episodes(world.labels_N, world.names, **SIZES | {"episodes": 300})
    rows = world.rows_ND / np.linalg.norm(world.rows_ND, axis=1, keepdims=True)
    shares = []
    for support, queries in zip(drawn.support_ENK, drawn.query_ENQ):
        means = [rows[places].mean(axis=0) for places in support]
        right = [max(range(3), key=lambda c: rows[q] @ means[c] / np.linalg.norm(means[c])) == label
                 for label, places in enumerate(queries) for q in places]
        shares.append(sum(right) / len(right))
    result = evaluate(get_head("prototype").scores, world, drawn)
    np.testing.assert_allclose(result.accuracy_E, shares)
    assert 40 < result.mean < 95 and result.mean == pytest.approx(100 * np.mean(shares))
    assert result.interval == pytest.approx(100 * 1.959964 * np.std(shares) / np.sqrt(300), rel=1e-6)


def test_settings_are_those_that_are_best_on_base_classes():
    world = objects()
    drawn = sample_episodes(world.labels_N, world.names, **SIZES)

    def scores(tasks, right):
        truth = torch.nn.functional.one_hot(tasks.label_Q, tasks.way).float().expand(len(tasks.numbers), -1, -1)
        return right * truth

    assert tune(scores, [{"right": value} for value in (-1.0, 2.0, 3.0)], world, drawn) == {"right": 2.0}


@pytest.mark.parametrize(("name", "iterations"), [("relation", 150), ("maml", 150)])
def test_plug_ins_learn_from_base_classes_what_holds_for_novel_ones(name, iterations):
    base, novel = objects(classes=12, noise=0.5), objects(classes=6, noise=0.5, offset=1)
    sizes = {"way": 3, "shot": 2, "query": 4}
    drawn = sample_episodes(novel.labels_N, novel.names, **sizes, episodes=40, seed=1)
    train = HEADS[name].train_on_base
    before = torch.random.get_rng_state()
    learned = train(base, **sizes, seed=0, iterations=iterations)
    assert torch.equal(before, torch.random.get_rng_state())
    result = evaluate(learned, novel, drawn)
    assert result.mean > 60, "a third are right by chance"
    again = evaluate(train(base, **sizes, seed=0, iterations=iterations), novel, drawn)
    np.testing.assert_array_equal(result.accuracy_E, again.accuracy_E)


def test_maml_takes_gradients_through_its_steps():
    """The outer gradient of the start is that of finite differences, which only the second order gives."""
    from ovd.fewshot.episodic import maml
    from ovd.fewshot.episodic.tasks import blocks

    world = objects()
    tasks = next(blocks(world, sample_episodes(world.labels_N, world.names, **SIZES | {"episodes": 2})))
    torch.manual_seed(0)
    start = [parameter.detach() for parameter in maml.Adapter(16, 3, 5).start(2)]
    head = start[2].clone().requires_grad_()

    def outer(weights, second_order):
        parameters = [start[0].requires_grad_(), start[1].requires_grad_(), weights, start[3].requires_grad_()]
        adapted = maml.adapted(parameters, tasks, 2, 0.5, second_order)
        return torch.nn.functional.cross_entropy(maml.logits(adapted, tasks.query_EQD).flatten(0, 1),
                                                 tasks.label_Q.repeat(2))

    gradient, = torch.autograd.grad(outer(head, True), [head])
    first_order, = torch.autograd.grad(outer(head, False), [head])
    step = torch.zeros_like(head)
    step[0, 1, 2] = 1e-2
    with torch.enable_grad():
        slope = (outer((head + step).detach().requires_grad_(), True)
                 - outer((head - step).detach().requires_grad_(), True)) / 2e-2
    assert gradient[0, 1, 2].item() == pytest.approx(slope.item(), abs=2e-4)
    assert (gradient - first_order).abs().max() > 1e-3


def test_sources_of_other_embeddings_are_refused():
    world = objects()
    wide = EmbeddedObjects(("a",), np.zeros(2, int), np.ones((2, 17), np.float32))
    with pytest.raises(UserError, match="wide: embeddings of width 17, those of first have 16"):
        EmbeddedObjects.merge([world, wide], ["first", "wide"])
    other = EmbeddedObjects(("a",), np.zeros(2, int), np.ones((2, 16), np.float32), {"clip": "sha256:other"})
    with pytest.raises(UserError, match=r"second: embeddings of another CLIP \(sha256:other\)"):
        EmbeddedObjects.merge([world, other], ["first", "second"])


def test_classes_of_one_name_are_one_class():
    a = EmbeddedObjects(("cat", "dog"), np.array([0, 1]), np.eye(2, 4, dtype=np.float32))
    b = EmbeddedObjects(("owl", "cat"), np.array([0, 1]), -np.eye(2, 4, dtype=np.float32))
    both = EmbeddedObjects.merge([a, b], ["a", "b"])
    assert both.names == ("cat", "dog", "owl") and both.labels_N.tolist() == [0, 1, 2, 0]
    chosen = both.select(["owl", "cat"])
    assert chosen.labels_N.tolist() == [1, 0, 1] and chosen.rows_ND[0, 0] == 1 and chosen.rows_ND[2, 1] == -1
    with pytest.raises(UserError, match="no class 'cow'"):
        both.select(["cow"])
    kept, few = both.with_enough(2)
    assert kept.names == ("cat",) and few == ["dog", "owl"]
