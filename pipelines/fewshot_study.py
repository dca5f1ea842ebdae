"""Write the results of a recipe that compares ways to add classes: json, page and chart.

The recipe says what belongs to it, in a dict ``fewshot_study`` (fields of ovd.fewshot.detection.study.FewShotPlan)::

    fewshot_study = dict(
        title=..., results=[dict(file="{work_dir}/eval/fewshot.json")],
        tuned=[dict(method="TFA", metrics="{work_dir}/tfa/{shots}shots_seed{seed}/metrics.json", shots=(1, 5),
                    seeds=(0,))],
        charts=[dict(title=..., methods=["text", "prototype"])],
        questions=[dict(text="Does ...?", of="codes", over="prototype")], keep_base=["prototype"])

Writes OUT.json, OUT.md and OUT.png.
"""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ovd.errors import UserError
from ovd.stores.atomic import write_bytes
from pipelines.running.journal import machine
from pipelines.running.recipe_file import load_section
from pipelines.running.result_file import read_result

if TYPE_CHECKING:
    from ovd.fewshot.detection.study import FewShotPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ovd fewshot-study``."""
    parser.add_argument("recipe", type=Path, help="the recipe with a fewshot_study")
    parser.add_argument("--work-dir", type=Path, required=True, help="where the recipe's runs are")
    parser.add_argument("--out", type=Path, required=True, help="what to write, without suffix: docs/results/NAME")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``ovd fewshot-study``."""
    write_study(args.recipe, args.work_dir, args.out)


def write_study(recipe: Path, work_dir: Path, out: Path) -> list[dict[str, Any]]:
    """Gather the results of a study's runs and write its three files; returns the rows.

    Raises:
        UserError: A recipe without such a study or with a wrong one, a run that is missing, results of a smoke test.
    """
    from ovd.fewshot.detection.chart import draw_panels
    from ovd.fewshot.detection.results import table
    from ovd.fewshot.detection.study import answers, base_kept, gather
    from ovd.fewshot.detection.study_page import render_markdown

    plan = read_plan(recipe, work_dir)
    files = {results.file: read_result(results.file) for results in plan.results}
    for file, contents in files.items():
        if contents.get("smoke") or not contents.get("rows"):
            raise UserError(f"{file}: has no results (of a smoke test, or of another command): run ovd fewshot-eval")
    metrics = {(tuned.method, shots, seed): read_result(tuned.metrics.format(shots=shots, seed=seed))
               for tuned in plan.tuned for shots in tuned.shots for seed in tuned.seeds}
    before = {name: read_result(file) for name, file in plan.base_only.items()}
    found = gather(plan, files, metrics)
    lessons = {file: contents["base_lessons"] for file, contents in files.items()}
    contents = {"title": plan.title, "rows": list(found.values()), "questions": answers(plan, found),
                "base_kept": base_kept(plan, found),
                "base_before": {name: one.get("base/ap50") for name, one in before.items()},
                "base_lessons": {str(Path(file).parent.name): each for file, each in lessons.items()},
                "machine": {**machine(), "cores": os.cpu_count()}}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out.with_suffix(".json"), (json.dumps(contents, indent=1) + "\n").encode())
    write_bytes(out.with_suffix(".png"), draw_panels([
        (chart.title, [row for name in chart.methods for (other, _), row in found.items() if other == name])
        for chart in plan.charts]))
    page = render_markdown(plan, found, contents, out.with_suffix(".png").name, str(recipe))
    write_bytes(out.with_suffix(".md"), page.encode())
    print(table(list(found.values())))
    print(f"AP50 in per cent, mean and deviation over sets of shots; more in {out.with_suffix('.md')}")
    return contents["rows"]


def read_plan(recipe: Path, work_dir: Path) -> "FewShotPlan":
    """A recipe's ``fewshot_study``, checked."""
    from ovd.fewshot.detection.study import FewShotPlan

    section = load_section(recipe, "fewshot_study", {"work_dir": str(work_dir)}, leave=("shots", "seed"))
    try:
        return msgspec.convert(section, FewShotPlan)
    except (msgspec.ValidationError, UserError) as error:
        raise UserError(f"{recipe}: fewshot_study: {error}") from error
