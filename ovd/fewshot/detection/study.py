"""A study of ways to add classes: results of several evaluations as one table, and answers to questions fixed
beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ovd.errors import UserError, nearest
from ovd.evaluation.study import Figure
from ovd.fewshot.detection.methods import Method
from ovd.fewshot.detection.results import row

Rows = Mapping[tuple[str, int], Mapping[str, Any]]
"""(name of a method, shots) -> its row."""


class Results(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file that ``ovd fewshot-eval`` wrote.

    Attributes:
        names: What to call some of its methods here, by their names there.
        suffix: What to put behind the names of the others.
    """

    file: str
    names: Mapping[str, str] = msgspec.field(default_factory=dict)
    suffix: str = ""


class Tuned(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A method that is trained for each set of shots: its metrics.json, with ``{shots}`` and ``{seed}``."""

    method: str
    metrics: str
    shots: Sequence[int]
    seeds: Sequence[int]


class Chart(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A panel of the chart and the names of its methods."""

    title: str
    methods: Sequence[str]


class Question(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Does ``of`` reach a higher novel AP50 than ``over``, at each number of shots?"""

    text: str
    of: str
    over: str


class FewShotPlan(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a recipe's ``fewshot_study`` says.

    Attributes:
        base_only: method -> metrics.json of its detector before classes were added.
        titles: name -> title; other methods are called as they are written.
        keep_base: methods of which base AP must be the same, whatever is added.
    """

    title: str
    results: Sequence[Results]
    introduction: str = ""
    tuned: Sequence[Tuned] = ()
    base_only: Mapping[str, str] = msgspec.field(default_factory=dict)
    titles: Mapping[str, str] = msgspec.field(default_factory=dict)
    charts: Sequence[Chart] = ()
    questions: Sequence[Question] = ()
    keep_base: Sequence[str] = ()

    def title_of(self, name: str) -> str:
        """For people."""
        if name in self.titles:
            return self.titles[name]
        if "+" not in name:
            return name
        method = Method.parse(name)
        return f"{self.titles.get(method.text, method.text)} + {self.titles.get(method.source, method.source)}, " \
               f"{method.rule}".replace(" only", "")


def gather(plan: FewShotPlan, files: Mapping[str, Mapping[str, Any]],
           metrics: Mapping[tuple[str, int, int], Mapping[str, float]]) -> dict[tuple[str, int], dict[str, Any]]:
    """All rows by name and shots.

    Args:
        files: path -> contents of the evaluations.
        metrics: (method, shots, seed) -> those of trained methods.

    Raises:
        UserError: Two methods of one name.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}

    def add(entry: dict[str, Any]) -> None:
        key = entry["name"], entry["shots"]
        if key in found:
            raise UserError(f"the study has two rows of {key[0]!r} with {key[1]} shots: name one differently")
        found[key] = entry

    for results in plan.results:
        for one in files[results.file]["rows"]:
            name = results.names.get(one["name"], one["name"] + results.suffix)
            title = name if one["name"] in results.names else plan.title_of(one["name"]) + results.suffix
            add({**one, "name": name, "method": title})
    for tuned in plan.tuned:
        for shots in tuned.shots:
            runs = {seed: metrics[tuned.method, shots, seed] for seed in tuned.seeds}
            add(row(plan.titles.get(tuned.method, tuned.method), tuned.method, shots, runs))
    names = {name for name, _ in found}
    asked = [name for chart in plan.charts for name in chart.methods]
    for name in [*asked, *plan.keep_base, *(n for q in plan.questions for n in (q.of, q.over))]:
        if name not in names:
            raise UserError(f"the study asks for {name!r}, which has no results{nearest(name, names)}")
    return found


def difference(found: Rows, question: Question, shots: int, key: str = "novel/ap50") -> Figure | None:
    """``of`` minus ``over`` for the seeds that both have; what needs no shots is the same for every seed."""
    of, over = (found.get((name, shots), found.get((name, 0))) for name in (question.of, question.over))
    if of is None or over is None or key not in of["figures"] or key not in over["figures"]:
        return None

    def values(entry: Mapping[str, Any]) -> dict[int, float] | float:
        here = entry["figures"][key]["values"]
        return here[0] if entry["shots"] == 0 else dict(zip(entry["seeds"], here))

    first, second = values(of), values(over)
    seeds = [seed for entry in (first, second) if isinstance(entry, dict) for seed in entry]
    common = sorted({seed for seed in seeds if all(not isinstance(v, dict) or seed in v for v in (first, second))})
    if not common:
        return None
    pick = [dict.fromkeys(common, value) if not isinstance(value, dict) else value for value in (first, second)]
    return Figure(tuple(pick[0][seed] - pick[1][seed] for seed in common))


def answers(plan: FewShotPlan, found: Rows) -> list[dict[str, Any]]:
    """The questions with the differences at each number of shots, for programs."""
    result = []
    for question in plan.questions:
        by_shots = {shots: difference(found, question, shots) for shots in shot_counts(found)}
        result.append({"question": question.text, "of": question.of, "over": question.over, "novel_ap50": {
            str(shots): {"mean": round(figure.mean, 2), "std": round(figure.std, 2),
                         "values": [round(value, 2) for value in figure.values]}
            for shots, figure in by_shots.items() if figure is not None}})
    return result


def base_kept(plan: FewShotPlan, found: Rows) -> dict[str, list[float]]:
    """method -> the different base AP50 of its rows and seeds, to four decimals: one where base classes keep it."""
    kept = {}
    for name in plan.keep_base:
        values = [value for (other, _), entry in found.items() if other == name
                  for value in entry["figures"]["base/ap50"]["values"]]
        kept[name] = sorted(set(values))
    return kept


def shot_counts(found: Rows) -> list[int]:
    """The numbers of shots, rising, without 0."""
    return sorted({shots for _, shots in found if shots})
