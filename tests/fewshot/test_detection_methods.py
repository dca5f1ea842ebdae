"""Ways to add classes, as they are written; words that mean nothing; tables over shots and sets."""

import statistics

import pytest

from ovd.errors import UserError
from ovd.evaluation.study import Figure
from ovd.fewshot.detection.chart import draw_chart
from ovd.fewshot.detection.methods import Method
from ovd.fewshot.detection.passes import heads_at_once
from ovd.fewshot.detection.results import rows, table
from ovd.fewshot.detection.study import (
    Chart,
    FewShotPlan,
    Question,
    Results,
    Tuned,
    answers,
    base_kept,
    difference,
    gather,
)
from ovd.fewshot.detection.study_page import render_markdown
from ovd.fewshot.detection.words import made_up_words, renamed


@pytest.mark.parametrize(("written", "parts"), [
    ("text", ("text", None, None)), ("made-up", ("made-up", None, None)), ("codes", (None, "codes", None)),
    ("tip", (None, "tip", None)), ("text+codes:max", ("text", "codes", "max")),
    ("made-up+negative-margin:weights", ("made-up", "negative-margin", "weights"))])
def test_methods_are_read_as_they_are_written(written, parts):
    method = Method.parse(written)
    assert (method.name, method.text, method.source, method.rule) == (written, *parts)


@pytest.mark.parametrize(("written", "message"), [
    ("prototpye", "no method 'prototpye'.*prototype"), ("prototype:max", r"text\+prototype:max"),
    ("prototype+text:max", "'prototype' is not one of text, made-up"), ("text+codez:max", "no source 'codez'.*codes"),
    ("text+codes", r"needs a rule, one of weights, logits, max, trusted, such as text\+codes:weights"),
    ("text+codes:mean", "needs a rule")])
def test_what_is_no_method_is_refused_with_the_nearest_one(written, message):
    with pytest.raises(UserError, match=message):
        Method.parse(written)


def test_made_up_words_are_different_and_those_of_their_seed():
    words = made_up_words(2000, seed=3)
    assert len(set(words)) == 2000
    assert made_up_words(10, seed=3) == words[:10] and made_up_words(10, seed=4) != words[:10]
    assert list(renamed(["a", "b"])) == ["a", "b"] and not set(renamed(["a"]).values()) & {"a"}


def run(novel: float, base: float = 90.0) -> dict[str, float]:
    return {"novel/ap50": novel, "base/ap50": base, "all/ap50": (novel + base) / 2, "rare/ap50": float("nan")}


FIGURES = {("text", 0, 0): run(50.0), **{("codes", k, seed): run(40.0 + 3 * k + seed) for k in (1, 5)
                                         for seed in (0, 1, 2)}}


def test_rows_have_means_and_sample_deviations_over_the_seeds():
    found = rows(FIGURES, {"text": "text", "codes": "codes"})
    assert [(row["name"], row["shots"], row["seeds"]) for row in found] == [
        ("text", 0, [0]), ("codes", 1, [0, 1, 2]), ("codes", 5, [0, 1, 2])]
    last = found[-1]
    assert (last["novel_ap50"], last["novel_std"]) == (56.0, statistics.stdev([55, 56, 57]))
    assert last["figures"]["novel/ap50"]["values"] == [55.0, 56.0, 57.0]
    assert found[0]["novel_std"] == 0 and "rare/ap50" not in last["figures"]


def test_the_table_repeats_what_needs_no_shots_and_shows_base_once():
    lines = table(rows(FIGURES, {"text": "text", "codes": "codes"})).splitlines()
    assert lines[2].split() == ["text", "50.0", "50.0", "90.00"]
    assert lines[3].split() == ["codes", "44.0", "±", "1.0", "56.0", "±", "1.0", "90.00"]


def test_so_many_heads_at_once_that_their_detections_have_room():
    assert heads_at_once(250, 100) > 500
    assert heads_at_once(20_000, 300) * 20_000 * 600 * 32 <= 4 << 30
    assert heads_at_once(10 ** 9, 300) == 1


def plan(**changes) -> FewShotPlan:
    return FewShotPlan("t", [Results("a.json", {"text": "name"}, ", a")], tuned=[Tuned("TFA", "", [1], [0, 2])],
                       charts=[Chart("c", ["name", "TFA"])], keep_base=["codes, a", "TFA"],
                       questions=[Question("q", "codes, a", "name"), Question("r", "TFA", "codes, a")], **changes)


def gathered(chosen: FewShotPlan):
    contents = {"a.json": {"rows": rows(FIGURES, {"text": "text", "codes": "codes"})}}
    return gather(chosen, contents, {("TFA", 1, 0): run(60.0, 80.0), ("TFA", 1, 2): run(62.0, 81.0)})


def test_a_study_compares_what_two_methods_have_in_common():
    found = gathered(plan())
    assert set(found) == {("name", 0), ("codes, a", 1), ("codes, a", 5), ("TFA", 1)}
    assert difference(found, plan().questions[0], 5) == Figure((5.0, 6.0, 7.0))
    assert difference(found, plan().questions[1], 1) == Figure((60.0 - 43, 62.0 - 45))  # seeds 0 and 2
    assert difference(found, plan().questions[1], 5) is None
    assert answers(plan(), found)[0]["novel_ap50"]["1"]["mean"] == -6.0
    assert base_kept(plan(), found) == {"codes, a": [90.0], "TFA": [80.0, 81.0]}


def test_a_study_that_asks_for_what_there_is_not_is_refused():
    asked = plan(titles={})
    with pytest.raises(UserError, match=r"asks for 'cods, a'.*codes, a"):
        gathered(FewShotPlan("t", asked.results, tuned=asked.tuned, keep_base=["cods, a"]))


def test_page_and_chart_show_every_method():
    found = gathered(plan())
    contents = {"questions": answers(plan(), found), "base_kept": base_kept(plan(), found),
                "base_before": {"TFA": 82.0}, "machine": {"processor": "p", "cores": 2}}
    page = render_markdown(plan(), found, contents, "c.png", "recipe.py")
    assert "| TFA | 61.0 ± 1.4 | - |" in page and "| text, a | 50.0 | 50.0 |" not in page
    assert "- TFA: 80.0000 or 81.0000" in page and "- codes, a: 90.0000" in page
    assert draw_chart(list(found.values()))[:4] == b"\x89PNG"
    assert draw_chart(list(found.values())) == draw_chart(list(found.values()))
