"""The page of a study of ways to add classes: chart, tables over shots, and the questions with what came out."""

from collections.abc import Mapping, Sequence
from typing import Any

from ovd.evaluation.report import GROUPS
from ovd.fewshot.detection.results import cell
from ovd.fewshot.detection.study import FewShotPlan, Rows, shot_counts

FIGURES = {"novel/ap50": "Novel classes, box AP50", "novel_combination/ap50": "New combinations, box AP50",
           "novel_shape/ap50": "New shapes, box AP50", "novel/ap": "Novel classes, box AP",
           "base/ap50": "Base classes, box AP50"}


def render_markdown(plan: FewShotPlan, found: Rows, contents: Mapping[str, Any], chart: str, recipe: str) -> str:
    """The page as Markdown.

    Args:
        contents: Of the json: answers, base AP, machine.
        chart: Path of the chart, relative to the page.
    """
    counts = shot_counts(found)
    parts = [f"# {plan.title}", plan.introduction, f"![{GROUPS['novel']} AP50 against shots]({chart})",
             "Per cent; mean over sets of shots ± sample standard deviation. TFA, which trains for each set, had "
             "fewer of them: the json says which." if plan.tuned else
             "Per cent; mean over sets of shots ± sample standard deviation."]
    for key, title in FIGURES.items():
        if any(key in row["figures"] for row in found.values()):
            parts += [f"## {title}", _table(found, counts, key)]
    if contents["questions"]:
        parts += ["## Questions", "Differences in points of novel AP50, set by set.", _questions(contents, counts)]
    if contents["base_kept"]:
        parts += ["## Base classes", "Base AP50 over all numbers of shots and sets, as it was computed.",
                  _kept(plan, found, contents)]
    where = contents["machine"]
    processor = f"- processor: {where['processor']}, {where['cores']} cores"
    parts += ["## Conditions", f"- command: `ovd run {recipe}`\n{processor}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(found: Rows, counts: Sequence[int], key: str) -> str:
    lines = ["| method | " + " | ".join(_shots(k) for k in counts) + " |", "|---|" + "---:|" * len(counts)]
    for name in dict.fromkeys(name for name, _ in found):
        mine = {shots: row for (other, shots), row in found.items() if other == name}
        cells = [_cell(mine.get(k, mine.get(0)), key) for k in counts]
        if any(text != "-" for text in cells):
            lines.append(f"| {next(iter(mine.values()))['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None, key: str) -> str:
    figure = None if row is None else row["figures"].get(key)
    if figure is None:
        return "-"
    return cell({"x_ap50": figure["mean"], "x_std": figure["std"], "seeds": figure["values"]}, "x")


def _questions(contents: Mapping[str, Any], counts: Sequence[int]) -> str:
    lines = ["| question | of, over | " + " | ".join(_shots(k) for k in counts) + " |",
             "|---|---|" + "---:|" * len(counts)]
    for answer in contents["questions"]:
        cells = []
        for k in counts:
            figure = answer["novel_ap50"].get(str(k))
            cells.append("-" if figure is None else f"{figure['mean']:+.1f} ± {figure['std']:.1f}")
        lines.append(f"| {answer['question']} | {answer['of']}, {answer['over']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _kept(plan: FewShotPlan, found: Rows, contents: Mapping[str, Any]) -> str:
    titles = {name: row["method"] for (name, _), row in found.items()}
    lines = [f"- {titles[name]}: {' or '.join(f'{value:.4f}' for value in values[:3])}"
             + (f" and {len(values) - 3} more" if len(values) > 3 else "") for name, values in
             contents["base_kept"].items()]
    lines += [f"- {name}, before classes were added: {value:.4f}" for name, value in contents["base_before"].items()]
    return "\n".join(lines)


def _shots(count: int) -> str:
    return "1 shot" if count == 1 else f"{count} shots"
