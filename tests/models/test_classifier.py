"""The cosine classifier: numbers, masking, label order, vocabularies and checkpoints."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_vocabulary import NAMES, SPLIT, WIDTH, make_head

from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.splits import Split

FLOOR = torch.finfo(torch.float32).min


def embeddings(rows: int = 5) -> torch.Tensor:
    return F.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(5)), dim=-1)


def slow_logit(row: list[float], other: list[float], temperature: float) -> float:
    norm = math.sqrt(sum(x * x for x in other))
    return sum(a * b for a, b in zip(row, other)) / norm / temperature


def test_logits_are_cosines_over_the_temperature_of_the_phase():
    classifier = CosineClassifier(make_head(), SPLIT, temperature_train=0.02, temperature_test=0.005)
    rows = [*make_head().weights[:, 0].tolist(), classifier.background.tolist()]
    for training, temperature in ((True, 0.02), (False, 0.005)):
        classifier.train(training)
        logits = classifier(embeddings())
        for row, values in zip(embeddings().tolist(), logits.tolist()):
            for column, (other, value) in enumerate(zip(rows, values)):
                hidden = training and SPLIT.num_base <= column < len(NAMES)
                expected = FLOOR if hidden else slow_logit(row, other, temperature)
                assert value == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_novel_logits_are_masked_in_training():
    classifier = CosineClassifier(make_head(), SPLIT)
    logits = classifier(embeddings())
    probabilities = logits.softmax(-1)
    assert (probabilities[:, SPLIT.num_base:len(NAMES)] == 0).all()
    visible = torch.cat([logits[:, :SPLIT.num_base], logits[:, -1:]], 1)
    labels = torch.tensor([0, 1, 2, 3, len(NAMES)])
    loss = F.cross_entropy(logits, labels)
    assert torch.isclose(loss, F.cross_entropy(visible, labels.clamp(max=SPLIT.num_base)))
    loss.backward()
    assert torch.isfinite(classifier.background.grad).all()


def test_novel_logits_count_at_test():
    classifier = CosineClassifier(make_head(), SPLIT).eval()
    row = make_head().weights[5:6, 0]
    assert classifier(row).argmax() == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_neither_rounds_logits_nor_moves_the_mask(dtype):
    classifier = CosineClassifier(make_head(), SPLIT)
    expected = classifier(embeddings())
    with torch.autocast("cpu", dtype=dtype):
        logits = classifier(embeddings())
        loss = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)
    assert (logits[:, SPLIT.num_base:len(NAMES)] == FLOOR).all()
    assert torch.isfinite(loss)


def test_labels_follow_the_split_whatever_the_order_of_the_file():
    shuffled = make_head((*NAMES[::-1], "a class of no split"))
    ours, theirs = CosineClassifier(make_head(), SPLIT), CosineClassifier(shuffled, SPLIT)
    assert theirs.names == SPLIT.classes
    assert torch.equal(ours.classes_CMD, theirs.classes_CMD)
    assert theirs.num_base == 4


def test_class_head_without_a_class_of_the_split_is_refused():
    with pytest.raises(UserError, match="class f"):
        CosineClassifier(make_head(NAMES[:-1]), SPLIT)


def test_background_starts_as_a_small_random_row():
    torch.manual_seed(0)
    background = CosineClassifier(embed_dim=20_000).background.detach()
    assert float(background.std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(background.mean())) < 0.001


def test_checkpoint_keeps_the_background_and_not_the_vocabulary():
    trained = CosineClassifier(make_head(), SPLIT)
    assert list(trained.state_dict()) == ["background"]
    other = CosineClassifier(make_head(("x", "y")))
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.background, trained.background)
    assert other.names == ("x", "y")


def test_a_new_vocabulary_leaves_the_old_classes_logits():
    classifier = CosineClassifier(make_head(), SPLIT).eval()
    before = classifier(embeddings())
    classifier.set_class_head(make_head(("new", *NAMES)))
    after = classifier(embeddings())
    assert classifier.num_classes == 7
    assert torch.equal(after[:, 1:], before)


@pytest.mark.parametrize("reduce", ["mean_logit", "max"])
def test_several_vectors_a_class_become_one_logit_as_in_the_class_head(reduce):
    shots = ClassHead(("a", "b"), torch.randn(2, 3, WIDTH), scale=100.0, reduce=reduce, counts=torch.tensor([3, 2]))
    classifier = CosineClassifier(shots, temperature_test=0.01).eval()
    assert torch.allclose(classifier(embeddings())[:, :2], shots.logits(embeddings()), rtol=1e-4, atol=1e-3)


def test_a_vocabulary_of_another_width_is_refused():
    classifier = CosineClassifier(make_head(), SPLIT)
    with pytest.raises(UserError, match=f"width 5, needed is {WIDTH}"):
        classifier.set_class_head(make_head(width=5))


@pytest.mark.parametrize("form, message", [({"norm": "linear"}, "norm linear: .* takes cosine heads"),
                                           ({"norm": "euclid"}, "norm euclid: .* takes cosine heads"),
                                           ({"stats": {"space": "fcos:1"}}, "space fcos:1: the detector's is a CLIP")])
def test_a_vocabulary_that_is_no_cosine_is_refused(form, message):
    classifier = CosineClassifier(embed_dim=WIDTH)
    with pytest.raises(UserError, match=message):
        classifier.set_class_head(ClassHead(("a", "b"), torch.randn(2, 1, WIDTH), **form))


def test_one_bias_for_all_classes_changes_nothing():
    """SigLIP's bias is in its class heads; the detector's softmax of cosines has no use for it."""
    plain = make_head()
    classifier = CosineClassifier(plain, SPLIT).eval()
    before = classifier(embeddings())
    biased = replace(plain, bias=[-10.0] * len(plain), scale=117.3)
    classifier.set_class_head(biased.select(SPLIT.classes))
    assert torch.equal(classifier(embeddings()), before)


def test_a_classifier_without_vocabulary_needs_a_width():
    with pytest.raises(UserError, match="embed_dim"):
        CosineClassifier()
    assert CosineClassifier(embed_dim=WIDTH).eval()(embeddings()).shape == (5, 1)


def test_probabilities_leave_room_for_the_background_only_where_there_is_one():
    with_background = CosineClassifier(make_head(), SPLIT).eval()
    without = CosineClassifier(make_head(), SPLIT, background=False).eval()
    logits = with_background(embeddings())
    assert torch.equal(with_background.probabilities(logits), logits.softmax(-1)[:, :-1])
    assert torch.allclose(without.probabilities(without(embeddings())).sum(-1), torch.ones(5))
    assert without(embeddings()).shape == (5, 6)


def test_files_are_relative_to_the_data_root(tmp_path):
    make_head().save(tmp_path / "head.safetensors")
    SPLIT.save(tmp_path / "split.json")
    classifier = CosineClassifier("head.safetensors", "split.json", data_root=str(tmp_path))
    assert classifier.names == SPLIT.classes
    assert torch.allclose(classifier.classes_CMD, make_head().weights)


def test_base_classes_are_known_by_name_in_another_vocabulary():
    classifier = CosineClassifier(make_head(), SPLIT)
    assert classifier.is_base.tolist() == [True] * 4 + [False] * 2
    classifier.set_class_head(make_head(("new", NAMES[5], NAMES[2])))
    assert classifier.is_base.tolist() == [False, False, True]
    classifier.set_class_head(make_head(NAMES[::-1]))
    assert classifier.is_base.tolist() == [False] * 2 + [True] * 4
    late = CosineClassifier(split=SPLIT, embed_dim=WIDTH)
    late.set_class_head(make_head(NAMES[3:5]))
    assert late.is_base.tolist() == [True, False]


def test_a_base_class_is_base_in_each_of_its_spellings():
    speaker = "speaker_(stereo_equipment)", "speaker_(stero_equipment)"
    for trained, other in (speaker, speaker[::-1]):
        classifier = CosineClassifier(make_head((trained, "novel")), Split("s", "custom", (trained,), ("novel",)))
        assert classifier.is_base.tolist() == [True, False]
        classifier.set_class_head(make_head(("new", other)))
        assert classifier.is_base.tolist() == [False, True]


def test_without_a_split_all_first_classes_are_base():
    classifier = CosineClassifier(make_head())
    assert classifier.is_base.all()
    classifier.set_class_head(make_head(("new", NAMES[0])))
    assert classifier.is_base.tolist() == [False, True]


def test_probabilities_keep_double_precision():
    logits = torch.tensor([[0.0, 1.0, 200.0]])
    classifier = CosineClassifier(make_head(("x", "y"))).eval()
    assert classifier.probabilities(logits).tolist() == [[0, 0]]
    assert classifier.probabilities(logits.double()).argmax() == 1


def test_independent_scores_are_of_base_classes_background_and_the_class_itself():
    classifier = CosineClassifier(make_head(), SPLIT, temperature_test=0.1).eval()
    logits = classifier(embeddings())
    found = classifier.probabilities(logits, independent=True)
    for row, values in zip(logits.tolist(), found.tolist()):
        rest = [math.exp(value) for value, base in zip(row, [*classifier.is_base.tolist(), True]) if base]
        for label, value in enumerate(values):
            own = 0 if classifier.is_base[label] else math.exp(row[label])
            assert value == pytest.approx(math.exp(row[label]) / (sum(rest) + own), rel=1e-4)


def test_independent_scores_of_base_classes_do_not_change_with_what_is_added():
    classifier = CosineClassifier(make_head(), SPLIT).eval()
    before = classifier.probabilities(classifier(embeddings()), independent=True)
    fewer = make_head().select([*SPLIT.base, SPLIT.novel[-1]])
    classifier.set_class_head(fewer)
    after = classifier.probabilities(classifier(embeddings()), independent=True)
    assert torch.equal(after, before[:, [make_head().names.index(name) for name in fewer.names]])


def test_independent_scores_without_anything_to_compare_with_are_the_usual_ones():
    classifier = CosineClassifier(make_head(), SPLIT, background=False).eval()
    classifier.set_class_head(make_head().select(SPLIT.novel))
    logits = classifier(embeddings())
    assert torch.equal(classifier.probabilities(logits, True), classifier.probabilities(logits))


def added_classes(form: str, bias: list[float] | None = None) -> ClassHead:
    """Two classes of three vectors each, 100 the unit of their biases."""
    rng = torch.Generator().manual_seed(8)
    vectors = torch.randn(2, 3, WIDTH, generator=rng)
    counts, beta = torch.tensor([3, 2]), 5.5 if form == "exp_sum" else None
    head = ClassHead(("new 0", "new 1"), vectors, bias=bias, scale=100.0, reduce="max" if form == "mixed" else form,
                     counts=counts, beta=beta)
    return head.as_mixed(replace(head.as_terms(), mix=[[0.5, 2, 1], [1, 1, 0.25]])) if form == "mixed" else head


@pytest.mark.parametrize("form", ["exp_sum", "log_mean_exp", "mixed", "max", "mean_logit"])
@pytest.mark.parametrize("bias", [None, [12.5, -3.0]])
def test_added_classes_of_every_form_count_in_units_of_the_cosine_and_change_no_other_logit(form, bias):
    text, added = replace(make_head(), scale=100.0), added_classes(form, bias)
    classifier = CosineClassifier(text, SPLIT, temperature_test=0.007).eval()
    before = classifier(embeddings())
    classifier.set_class_head(text.select(SPLIT.classes).concat(added))
    after = classifier(embeddings())
    places = [*range(len(NAMES)), len(NAMES) + 2]
    assert torch.equal(after[:, places], before)
    torch.testing.assert_close(after[:, len(NAMES):-1], added.logits(embeddings()) / 100 / 0.007, rtol=1e-4, atol=1e-3)
    classifier.set_class_head(classifier.head.remove(["new 0"]))
    assert torch.equal(classifier(embeddings())[:, :len(NAMES)], before[:, :-1])
    assert torch.equal(classifier(embeddings())[:, len(NAMES)], after[:, len(NAMES) + 1])
    classifier.set_class_head(text.select(SPLIT.classes))
    assert torch.equal(classifier(embeddings()), before)


def test_classes_of_other_forms_are_masked_in_training_and_pass_gradients_at_test():
    classifier = CosineClassifier(make_head(), SPLIT)
    with_added = make_head().select(SPLIT.classes).concat(replace(added_classes("mixed", [1.0, 2.0]), scale=20.0))
    logits_before = classifier(embeddings())
    classifier.set_class_head(with_added)
    classifier.num_base = SPLIT.num_base
    logits = classifier(embeddings())
    assert torch.equal(logits[:, :SPLIT.num_base], logits_before[:, :SPLIT.num_base])
    assert (logits[:, SPLIT.num_base:-1] == FLOOR).all()
    x = embeddings().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.eval()(x).sum(), x)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_the_bias_of_a_clip_with_sigmoids_is_no_class_of_its_own():
    """Names of SigLIP with its bias, and a class beside them whose own offset is counted from that."""
    siglip = replace(make_head(), bias=[-10.0] * len(NAMES), scale=100.0, stats={"scores": "sigmoid"})
    shots = replace(added_classes("exp_sum", [-10.0 + 5, -10.0]), stats={"scores": "sigmoid"})
    classifier = CosineClassifier(siglip, SPLIT).eval()
    before = classifier(embeddings())
    classifier.set_class_head(siglip.select(SPLIT.classes).concat(shots))
    after = classifier(embeddings())
    assert torch.equal(after[:, :len(NAMES)], before[:, :len(NAMES)])
    heat = replace(shots, bias=None).logits(embeddings())
    torch.testing.assert_close(after[:, len(NAMES):-1], (heat + torch.tensor([5.0, 0.0])) / 100 / 0.007, rtol=1e-4,
                               atol=1e-3)


@pytest.mark.parametrize("stats", [{"scores": "sigmoid", "clip_bias": -16.77}, {"clip_bias": -16.77}])
def test_no_bias_of_added_classes_changes_the_classes_of_a_clip_with_a_bias(stats):
    """Though more classes have the offset of what was added than have the CLIP's own bias."""
    siglip = replace(make_head(), bias=[-16.77] * len(NAMES), scale=100.0, stats=stats)
    added = ClassHead(tuple(f"new {i}" for i in range(2 * len(NAMES))), torch.randn(2 * len(NAMES), 1, WIDTH),
                      bias=[-20.0] * 2 * len(NAMES), scale=100.0, stats={**stats, "bias": "own"})
    plain = CosineClassifier(replace(siglip, bias=None, stats={}), SPLIT).eval()
    classifier = CosineClassifier(siglip, SPLIT).eval()
    before = classifier(embeddings())
    assert torch.equal(before[:, :-1], plain(embeddings())[:, :-1])
    both = siglip.select(SPLIT.classes).concat(added)
    classifier.set_class_head(both)
    after = classifier(embeddings())
    assert torch.equal(after[:, :len(NAMES)], before[:, :-1])
    classifier.set_class_head(both.select(added.names))
    assert torch.equal(classifier(embeddings())[:, :-1], after[:, len(NAMES):-1])


def test_classes_with_an_offset_keep_it_when_the_others_are_removed():
    offset = replace(added_classes("max", [-7.0, -7.0]), stats={"bias": "own"})
    classifier = CosineClassifier(make_head(), SPLIT).eval()
    classifier.set_class_head(offset)
    alone = classifier(embeddings())
    classifier.set_class_head(replace(make_head(), scale=100.0).concat(offset).select(offset.names))
    assert torch.equal(classifier(embeddings()), alone)


def test_a_bias_that_classes_were_given_counts_even_where_all_have_the_same():
    head = replace(make_head(), bias=[2.0] * len(NAMES), stats={"bias": "own"})
    with_own = CosineClassifier(head, temperature_test=0.01).eval()(embeddings())
    without = CosineClassifier(make_head(), temperature_test=0.01).eval()(embeddings())
    torch.testing.assert_close(with_own[:, :-1], without[:, :-1] + 2.0 / head.scale / 0.01)


@pytest.mark.parametrize("background", [True, False])
def test_independent_scores_of_base_classes_know_nothing_of_added_ones(background):
    text = replace(make_head(), scale=100.0)
    classifier = CosineClassifier(text, SPLIT, temperature_test=0.1, background=background).eval()
    logits = classifier(embeddings())
    base_only = text.select(SPLIT.base)
    classifier.set_class_head(base_only)
    alone = classifier.probabilities(classifier(embeddings()), independent=True)
    assert torch.allclose(alone, classifier.probabilities(classifier(embeddings())), rtol=1e-6)
    classifier.set_class_head(added_classes("max").concat(text.select(SPLIT.classes)))
    scores = classifier.probabilities(classifier(embeddings()), independent=True)
    assert torch.equal(scores[:, 2:2 + SPLIT.num_base], alone)
    reference = [*range(SPLIT.num_base), *([len(NAMES)] if background else [])]
    for row, row_logits in zip(scores[:, 2:].tolist(), logits.tolist()):
        others = sum(math.exp(row_logits[column]) for column in reference)
        for column in range(len(NAMES)):
            own = math.exp(row_logits[column])
            base = column < SPLIT.num_base
            assert row[column] == pytest.approx(own / (others if base else own + others), rel=1e-5)


def test_independent_scores_need_something_to_compare_with():
    classifier = CosineClassifier(embed_dim=WIDTH, background=False).eval()
    classifier.set_class_head(make_head())
    logits = classifier(embeddings())
    assert torch.equal(classifier.probabilities(logits, independent=True), classifier.probabilities(logits))
