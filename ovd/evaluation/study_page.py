"""A study's page: a chart, tables of means over seeds, and the questions with what came out. Markdown and PNG."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

from ovd.evaluation.report import GROUPS
from ovd.evaluation.study import STUDIED, Figure, Question, StudyPlan, Table, difference

BARS = {"base": "#8fb3d9", "novel": "#d9603b"}


def render_markdown(plan: StudyPlan, table: Table, chart: str, settings: Sequence[tuple[str, str]] = (),
                    zero_shot: Mapping[str, Mapping[str, Figure]] | None = None,
                    recall: Mapping[str, Mapping[str, Figure]] | None = None) -> str:
    """The page as Markdown.

    Args:
        chart: path of the chart, relative to the page.
        zero_shot: title -> group -> accuracy on ground-truth crops.
        recall: group -> name of a figure -> recall of proposals.
        settings: (what, value) under which it was made.
    """
    parts = [f"# {plan.title}", plan.introduction, f"![AP50 of every method]({chart})"]
    seeds = ", ".join(map(str, plan.seeds))
    parts.append(f"Per cent; mean over seeds {seeds} ± sample standard deviation.")
    groups = [group for group in GROUPS if any(f"{group}/ap50" in row for row in table.values())]
    for figure, title in STUDIED.items():
        if any(key.endswith(f"/{figure}") for row in table.values() for key in row):
            heading = "box AP50" if figure == "ap50" else title
            parts += [f"## {heading[0].upper()}{heading[1:]}", _table(plan, table, figure, groups)]
    if plan.questions:
        parts += ["## Questions", "Differences in points, seed by seed; the runs of a seed share their proposals."]
        parts += [_answer(plan, table, question) for question in plan.questions]
    if plan.upper_bound:
        parts += ["## How far from the supervised bound", _bound(plan, table)]
    if zero_shot:
        parts += ["## CLIP's accuracy on ground-truth crops", _grid("", zero_shot, groups, lambda group: GROUPS[group])]
    if recall:
        columns = list(next(iter(recall.values())))
        parts += ["## Recall of the proposals",
                  _grid("classes", {GROUPS.get(group, group): row for group, row in recall.items()}, columns, str)]
    abouts = [f"- **{method.title}**: {method.about}" for method in plan.methods if method.about]
    if abouts:
        parts += ["## The methods", "\n".join(abouts)]
    if settings:
        parts += ["## Conditions", "\n".join(f"- {what}: {value}" for what, value in settings)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(plan: StudyPlan, table: Table, figure: str, groups: Sequence[str]) -> str:
    lines = ["| method | " + " | ".join(GROUPS[group] for group in groups) + " |",
             "|---|" + "---:|" * len(groups)]
    for method in plan.methods:
        cells = [cell(table[method.name].get(f"{group}/{figure}")) for group in groups]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {method.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _grid(corner: str, figures: Mapping[str, Mapping[str, Figure]], columns: Sequence[str],
          heading: Callable[[str], str]) -> str:
    lines = [f"| {corner} | " + " | ".join(map(heading, columns)) + " |", "|---|" + "---:|" * len(columns)]
    return "\n".join(lines + [f"| {title} | " + " | ".join(cell(row.get(column)) for column in columns) + " |"
                              for title, row in figures.items()])


def cell(figure: Figure | None) -> str:
    """A figure as text: mean and deviation."""
    return "-" if figure is None else f"{figure.mean:.1f} ± {figure.std:.1f}"


def _answer(plan: StudyPlan, table: Table, question: Question) -> str:
    of, over = plan.method(question.of).title, plan.method(question.over).title
    lines = [f"**{question.text}** {of} against {over}:", ""]
    for key in question.figures:
        group, _, name = key.rpartition("/")
        found = difference(table, question, key)
        what = f"{GROUPS.get(group, group)}, {STUDIED[name]}"
        if found is None:
            lines.append(f"- {what}: not measured")
            continue
        higher = sum(value > 0 for value in found.values)
        values = ", ".join(f"{value:+.1f}" for value in found.values)
        lines.append(f"- {what}: {found.mean:+.1f} ({values}); higher in {higher} of {len(found.values)} seeds")
    return "\n".join(lines)


def _bound(plan: StudyPlan, table: Table) -> str:
    bound = table[plan.upper_bound]["novel/ap50"].mean
    lines = ["| method | novel AP50 | of the bound |", "|---|---:|---:|"]
    for method in plan.methods:
        figure = table[method.name].get("novel/ap50")
        if figure is not None:
            lines.append(f"| {method.title} | {figure.mean:.1f} | {100 * figure.mean / bound:.0f} % |")
    return "\n".join(lines)


def draw_chart(plan: StudyPlan, table: Table) -> bytes:
    """AP50 of base and novel classes (bars: means, dots: seeds), and of new shapes where there are such. PNG."""
    from matplotlib.figure import Figure as Canvas

    panels = [("box AP50", [("base", "base/ap50", BARS["base"]), ("novel", "novel/ap50", BARS["novel"])])]
    if any("novel_shape/top1_ap50" in row for row in table.values()):
        panels.append(("new shapes only", [("AP50, one label a box", "novel_shape/top1_ap50", "#e9b44c"),
                                           ("accuracy at true boxes", "novel_shape/accuracy", "#6a994e")]))
    count = len(plan.methods)
    canvas = Canvas(figsize=(5.2 * len(panels) + 1.2, 0.52 * count + 1.5), layout="constrained", dpi=110)
    axes = canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, series) in zip(axes, panels):
        height = 0.8 / len(series)
        for number, (label, key, colour) in enumerate(series):
            for row, method in enumerate(plan.methods):
                figure = table[method.name].get(key)
                if figure is None:
                    continue
                y = row + (number - (len(series) - 1) / 2) * height
                first = label if row == next(i for i, m in enumerate(plan.methods) if key in table[m.name]) else None
                axis.barh(y, figure.mean, height * 0.92, color=colour, label=first)
                axis.plot(figure.values, [y] * len(figure.values), "o", color="#222222", markersize=2.6)
                axis.text(101.5, y, f"{figure.mean:.1f}", va="center", fontsize=7.5)
        if plan.upper_bound and series[0][1] == "base/ap50" and "novel/ap50" in table[plan.upper_bound]:
            axis.axvline(table[plan.upper_bound]["novel/ap50"].mean, color=BARS["novel"], linewidth=1, linestyle=":")
        axis.set_xlim(0, 111)
        axis.set_xticks(range(0, 101, 20))
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="upper center", bbox_to_anchor=(0.46, -0.06), ncols=2, frameon=False, fontsize=8.5)
    axes[0].set_yticks(range(count), [method.title for method in plan.methods])
    axes[0].invert_yaxis()
    buffer = BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
