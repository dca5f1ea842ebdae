"""A study: the figures of several methods, each run with several seeds, as means, deviations and paired differences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ovd.errors import UserError, nearest
from ovd.evaluation.report import FIGURES

STUDIED = {**FIGURES, "ap": "AP, overlaps from 0.5 to 0.95", "mask_ap": "mask AP, overlaps from 0.5 to 0.95"}


class StudyMethod(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A row of the study: its name in file names, its title, what it is in a sentence."""

    name: str
    title: str
    about: str = ""


class Question(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A comparison fixed beforehand: does ``of`` reach more than ``over`` in ``figures`` (``group/figure``)?"""

    text: str
    of: str
    over: str
    figures: Sequence[str]


class Proposals(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where each seed's proposals and what they are measured against are; paths with ``{seed}``."""

    store: str
    annotations: str
    split: str


class StudyPlan(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a recipe's ``study`` says.

    Attributes:
        metrics: path of a run's metrics.json, with ``{seed}`` and ``{method}``.
        upper_bound: name of the method that the others are measured against.
        zero_shot: title -> path with ``{seed}`` of what ``ovd zero-shot`` wrote.
        proposals: for their recall.
    """

    title: str
    seeds: Sequence[int]
    metrics: str
    methods: Sequence[StudyMethod]
    introduction: str = ""
    upper_bound: str = ""
    zero_shot: Mapping[str, str] = msgspec.field(default_factory=dict)
    proposals: Proposals | None = None
    questions: Sequence[Question] = ()

    def method(self, name: str) -> StudyMethod:
        """The method of that name."""
        known = {method.name: method for method in self.methods}
        if name not in known:
            raise UserError(f"the study has no method {name!r}{nearest(name, known)}")
        return known[name]


@dataclass(frozen=True)
class Figure:
    """A figure over seeds: the values in the order of the seeds, their mean and sample standard deviation (n - 1)."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """0 for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


Table = Mapping[str, Mapping[str, Figure]]  # method -> "group/figure" -> Figure


def gather(plan: StudyPlan, metrics: Mapping[tuple[str, int], Mapping[str, float | None]]) -> Table:
    """The figures of every method over the seeds.

    A figure that one of a method's runs does not have (or has as NaN) is left out of the method.

    Args:
        metrics: (method, seed) -> the contents of a metrics.json.
    """
    table: dict[str, dict[str, Figure]] = {}
    for method in plan.methods:
        runs = [metrics[method.name, seed] for seed in plan.seeds]
        row = {}
        for key in runs[0]:
            values = [run.get(key) for run in runs]
            if key.rpartition("/")[2] in STUDIED and all(isinstance(v, float | int) and not math.isnan(v)
                                                         for v in values):
                row[key] = Figure(tuple(float(v) for v in values))
        table[method.name] = row
    return table


def difference(table: Table, question: Question, key: str) -> Figure | None:
    """``of`` minus ``over``, seed by seed; None where one of them lacks the figure."""
    of, over = table[question.of].get(key), table[question.over].get(key)
    if of is None or over is None:
        return None
    return Figure(tuple(a - b for a, b in zip(of.values, over.values)))


def rows(plan: StudyPlan, table: Table) -> list[dict]:
    """The study's rows for programs: ``base_ap50``, ``base_std``, ... and every figure with its values, in per cent."""
    result = []
    for method in plan.methods:
        row: dict = {"method": method.title, "name": method.name, "seeds": list(plan.seeds)}
        for group in ("base", "novel", "all"):
            figure = table[method.name].get(f"{group}/ap50")
            row[f"{group}_ap50"] = None if figure is None else round(figure.mean, 2)
            row[f"{group}_std"] = None if figure is None else round(figure.std, 2)
        row["figures"] = {
            key: {"mean": round(figure.mean, 2), "std": round(figure.std, 2),
                  "values": [round(value, 2) for value in figure.values]}
            for key, figure in table[method.name].items()}
        result.append(row)
    return result


def answers(plan: StudyPlan, table: Table) -> list[dict]:
    """The questions with what came out, for programs."""
    result = []
    for question in plan.questions:
        found = {key: difference(table, question, key) for key in question.figures}
        result.append({
            "question": question.text, "of": question.of, "over": question.over,
            "differences": {key: {"mean": round(d.mean, 2), "std": round(d.std, 2),
                                  "values": [round(value, 2) for value in d.values]}
                            for key, d in found.items() if d is not None}})
    return result


def check_plan(plan: StudyPlan) -> None:
    """UserError unless the plan is consistent: names, seeds, questions."""
    names = [method.name for method in plan.methods]
    if not names or len(set(names)) < len(names):
        raise UserError("the study's methods must have at least one entry and different names")
    if not plan.seeds or len(set(plan.seeds)) < len(plan.seeds):
        raise UserError("the study's seeds must have at least one entry and be different")
    if "{seed}" not in plan.metrics or "{method}" not in plan.metrics:
        raise UserError(f"the study's metrics, {plan.metrics!r}, must have {{seed}} and {{method}}")
    for name in [plan.upper_bound, *(n for q in plan.questions for n in (q.of, q.over))]:
        if name:
            plan.method(name)
