"""Write a study's results: json, page and chart, from the metrics of all its runs.

The recipe says what belongs to it, in a dict ``study`` (fields of ovd.evaluation.study.StudyPlan)::

    study = dict(
        title=..., introduction=..., seeds=(0, 1, 2),
        metrics="{work_dir}/seed{seed}/{method}/metrics.json",
        methods=[dict(name="vild_text", title="ViLD-text", about="..."), ...],
        upper_bound="supervised",
        questions=[dict(text="Does ...?", of="vild", over="vild_text", figures=["novel/ap50"])])

Writes OUT.json, OUT.md and OUT.png.
"""

import argparse
import json
import os
from pathlib import Path

import msgspec

from ovd.errors import UserError
from ovd.evaluation.study import Figure, StudyPlan, answers, check_plan, gather, rows
from ovd.stores.atomic import write_bytes
from pipelines.running.console import duration
from pipelines.running.journal import Journal, machine
from pipelines.running.recipe_file import load_section
from pipelines.running.result_file import read_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ovd study``."""
    parser.add_argument("recipe", type=Path, help="the recipe with a study")
    parser.add_argument("--work-dir", type=Path, required=True, help="where the recipe's runs are")
    parser.add_argument("--out", type=Path, required=True, help="what to write, without suffix: docs/results/NAME")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``ovd study``."""
    write_study(args.recipe, args.work_dir, args.out)


def write_study(recipe: Path, work_dir: Path, out: Path) -> list[dict]:
    """Gather the metrics of a study's runs and write its three files; returns the rows.

    Raises:
        UserError: A recipe without a study or with a wrong one, a run that is missing.
    """
    from ovd.evaluation.study_page import cell, draw_chart, render_markdown

    plan = read_plan(recipe, work_dir)
    metrics = {(method.name, seed): _metrics(plan, method.name, seed) for method in plan.methods for seed in plan.seeds}
    table = gather(plan, metrics)
    found = rows(plan, table)
    where = {**machine(), "cores": os.cpu_count()}  # not this stage's share of them
    contents = {"title": plan.title, "rows": found, "questions": answers(plan, table), "machine": where,
                "training_seconds": training_seconds(work_dir, plan)}
    zero_shot = {title: _over_seeds([read_result(path.format(seed=seed)) for seed in plan.seeds])
                 for title, path in plan.zero_shot.items()}
    recall = _recall(plan)
    contents["clip_zero_shot"] = {title: _means(row) for title, row in zero_shot.items()}
    contents["proposal_recall"] = {group: _means(row) for group, row in recall.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out.with_suffix(".json"), (json.dumps(contents, indent=1) + "\n").encode())
    write_bytes(out.with_suffix(".png"), draw_chart(plan, table))
    settings = _settings(recipe, plan, contents)
    page = render_markdown(plan, table, out.with_suffix(".png").name, settings, zero_shot, recall)
    write_bytes(out.with_suffix(".md"), page.encode())
    width = max(len(method.title) for method in plan.methods)
    for method in plan.methods:
        figures = ((group, table[method.name].get(f"{group}/ap50")) for group in ("base", "novel", "all"))
        print(f"{method.title:<{width}}  " + "   ".join(f"{group} {cell(figure)}" for group, figure in figures))
    print(f"box AP50 in per cent over {len(plan.seeds)} seeds; more in {out.with_suffix('.md')}")
    return found


def read_plan(recipe: Path, work_dir: Path) -> StudyPlan:
    """A recipe's ``study``, checked."""
    section = load_section(recipe, "study", {"work_dir": str(work_dir)}, leave=("seed", "method"))
    try:
        plan = msgspec.convert(section, StudyPlan)
        check_plan(plan)
    except (msgspec.ValidationError, UserError) as error:
        raise UserError(f"{recipe}: study: {error}") from error
    return plan


def training_seconds(work_dir: Path, plan: StudyPlan) -> dict[str, list[float]]:
    """How long each method's own training took, per seed, from the run's journal (stages ``<method>-<seed>``)."""
    try:
        stages = Journal.read(work_dir).stages
    except UserError:
        return {}  # the runs were not made by the recipe
    times = {method.name: [round(stages[f"{method.name}-{seed}"].seconds, 1) for seed in plan.seeds
                           if f"{method.name}-{seed}" in stages] for method in plan.methods}
    return {name: seconds for name, seconds in times.items() if seconds}


def _metrics(plan: StudyPlan, method: str, seed: int) -> dict[str, float | None]:
    path = plan.metrics.format(seed=seed, method=method)
    value = read_result(path)
    if not any(key.endswith("/ap50") for key in value):
        raise UserError(f"{path}: has no figures such as \"base/ap50\"; it must be the metrics.json of a test")
    return value


def _over_seeds(runs: list[dict[str, float]]) -> dict[str, Figure]:
    return {key: Figure(tuple(run[key] for run in runs)) for key in runs[0] if all(key in run for run in runs)}


def _means(row: dict[str, Figure]) -> dict[str, dict[str, float]]:
    return {key: {"mean": round(figure.mean, 2), "std": round(figure.std, 2)} for key, figure in row.items()}


def _recall(plan: StudyPlan) -> dict[str, dict[str, Figure]]:
    """Group -> ``AR@k`` and ``recall@k`` -> figure, of the plan's proposals."""
    if plan.proposals is None:
        return {}
    from ovd.evaluation.exhibits import Exhibits
    from ovd.vocabulary.splits import get_split

    runs = []
    for seed in plan.seeds:
        paths = {key: getattr(plan.proposals, key).format(seed=seed) for key in ("store", "annotations", "split")}
        runs.append(Exhibits(paths["annotations"], "", get_split(paths["split"]), {}).recall(paths["store"]))
    return {group: _over_seeds([run[group] for run in runs]) for group in runs[0]}


def _settings(recipe: Path, plan: StudyPlan, contents: dict) -> list[tuple[str, str]]:
    where = contents["machine"]
    versions = ", ".join(f"{name} {where[name]}" for name in ("torch", "onedl-mmdetection", "open-clip-torch")
                         if name in where)
    settings = [("command", f"`ovd run {recipe}`"), ("processor", f"{where['processor']}, {where['cores']} cores"),
                ("versions", versions)]
    times = {name: sum(seconds) / len(seconds) for name, seconds in contents["training_seconds"].items()}
    if times:
        said = ", ".join(f"{plan.method(name).title} {duration(seconds)}" for name, seconds in times.items())
        settings.append(("a training on one core, on a machine with other work", said))
    return settings
