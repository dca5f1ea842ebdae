"""The report of runs as one HTML file that needs nothing but itself. Its one script sorts and filters tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from ovd.evaluation.charts import Line, legend, line_chart
from ovd.evaluation.error_breakdown import ERRORS
from ovd.evaluation.report import group_title, number, stage_timelines
from ovd.evaluation.report_page import html_file, scene_figure, timeline_table
from ovd.evaluation.run_report import Exhibit, RunReport, differing
from ovd.evaluation.run_tables import (
    class_table,
    fewshot_section,
    figures_table,
    projection_section,
    settings_tables,
)

MOST_LINES = 8  # in a chart
_SHOWN_COSTS = ("base", "novel", "rare", "common", "frequent", "all")
_FLAG_WORDS = {"untrained": "learned from random weights, not from a trained CLIP: its figures for novel classes mean "
                            "nothing", "smoke": "is a smoke test: its figures mean nothing"}
_ERROR_WORDS = {
    "classification": "right place, wrong name", "localisation": "right name, box not good enough",
    "both": "wrong name and box not good enough", "duplicate": "an object found a second time",
    "background": "nothing is there", "missed": "an object that nothing found"}


def render_runs(report: RunReport) -> str:
    """The page."""
    sections = analysis(report)
    body = [_headline(report), _tiles(report), _contents([name for name, _ in sections]), _missing(report),
            *(f'<section id="{_anchor(name)}">\n<h2>{escape(name)}</h2>\n{content}\n</section>'
              for name, content in sections)]
    return html_file(report.title, body)


def analysis(report: RunReport) -> list[tuple[str, str]]:
    """(heading, content) of every section that there is something for."""
    sections: list[tuple[str, Callable[[RunReport], str]]] = [
        ("Figures", figures_table), ("Few-shot figures", fewshot_section), ("Training", _training),
        ("Precision and recall", _curves), ("Errors", _errors), ("Classes", class_table), ("Pictures", _pictures),
        ("Proposals", _recall), ("Classes and regions on a plane", projection_section), ("Time and memory", _times),
        ("Settings", settings_tables)]
    return [(name, content) for name, make in sections if (content := make(report))]


def _headline(report: RunReport) -> str:
    lines = []
    if report.recipe is not None:
        lines.append(f"<p>A recipe's runs: {escape(report.recipe.status)}. The report of a run alone has more: "
                     f"<code>ovd report {escape(str(report.recipe.work_dir))}/...</code></p>")
    if len(report.exhibits) == 1:
        run = report.exhibits[0].run
        status = run.status[:1].upper() + run.status[1:]
        lines.append(f"<p>{escape(status)}. <code>{escape(str(run.work_dir))}</code></p>")
    elif report.recipe is None:
        items = "".join(f"<li><strong>{escape(exhibit.title)}</strong>: {escape(exhibit.run.status)}</li>"
                        for exhibit in report.exhibits)
        lines.append(f'<ul class="runs">{items}</ul>')
    for exhibit in report.exhibits:
        for flag, on in exhibit.run.flags.items():
            if on:
                words = _FLAG_WORDS.get(flag, flag)
                lines.append(f'<p class="wrong">{escape(exhibit.title)} {escape(words)}.</p>')
        lines += [f'<p class="wrong">{escape(problem)}</p>' for problem in exhibit.problems]
    return f"<h1>{escape(report.title)}</h1>\n" + "\n".join(lines)


def _tiles(report: RunReport) -> str:
    """AP50 of base, novel and all classes: of the only run, or of the last one beside the first."""
    tested = [exhibit for exhibit in report.exhibits if exhibit.run.metrics]
    if not tested or report.recipe is not None:
        return ""
    first, last = tested[0].run.metrics, tested[-1].run.metrics
    tiles = []
    for group in ("base", "novel", "all"):
        before, after = first.get(f"{group}/ap50"), last.get(f"{group}/ap50")
        if after is None:
            continue
        change = f"<small>{before:.1f} &rarr;</small> " if len(tested) > 1 and before is not None else ""
        tiles.append(f'<div class="tile"><div class="label">AP50 of {group_title(group)} classes</div>'
                     f'<div class="value">{change}{after:.1f}</div></div>')
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _contents(names: Sequence[str]) -> str:
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in names)
    return f'<nav class="contents">{links}</nav>'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _missing(report: RunReport) -> str:
    rows = []
    runs = {exhibit.title: exhibit.run for exhibit in report.exhibits} if report.recipe is None else {
        report.recipe.name: report.recipe}
    for title, run in runs.items():
        for missing in run.missing():
            of = f"{escape(title)}: " if len(runs) > 1 else ""
            command = f"<br><code>{escape(missing.command)}</code>" if missing.command else ""
            rows.append(f"<li>{of}{escape(missing.what)}{command}</li>")
    if not rows:
        return ""
    return ('<details class="missing" open><summary>What is not here yet, and the command that makes it</summary>'
            f"<ul>{''.join(rows)}</ul></details>")


def _training(report: RunReport) -> str:
    logged = [exhibit for exhibit in report.exhibits if exhibit.run.log is not None]
    shown = logged[:MOST_LINES]
    if not shown:
        return ""
    names = {name: None for exhibit in shown for name in exhibit.run.log.losses}
    extra = [name for name in ("lr", "grad_norm") if any(name in e.run.log.curves for e in shown)]
    validations = {exhibit.title: exhibit.run.validations() for exhibit in shown}
    validated = {name: None for curves in validations.values() for name in curves}
    charts: list[str] = []
    for name in [*names, *validated, *extra]:
        lines = []
        for colour, exhibit in enumerate(shown):
            curve = exhibit.run.log.curves.get(name) or validations[exhibit.title].get(name)
            if curve is not None and len(curve.steps):
                lines.append(Line(exhibit.title, curve.steps.tolist(), curve.values.tolist(), colour))
        charts.append(line_chart(_loss_title(name), lines, logarithmic=name in names))
    note = ("Means over the iterations since the point before; the x axis counts iterations. A scale is logarithmic "
            "where a loss falls to less than a third.")
    if len(logged) > len(shown):
        note += f" The first {len(shown)} of {len(logged)} runs are shown."
    return f'{_run_legend(shown)}<div class="plots">{"".join(charts)}</div>\n<p class="note">{note}</p>'


def _loss_title(name: str) -> str:
    return {"loss": "loss, in total", "lr": "learning rate", "grad_norm": "norm of the gradient"}.get(
        name, name.replace("loss_", "").replace("_", " ") if "/" not in name else
        f"{group_title(name.partition('/')[0])} {name.partition('/')[2].upper()}")


def _run_legend(exhibits: Sequence[Exhibit]) -> str:
    if len(exhibits) < 2:
        return ""
    return legend((exhibit.title, colour, False) for colour, exhibit in enumerate(exhibits))


def _curves(report: RunReport) -> str:
    studied = report.studied
    if not studied:
        return ""
    recalls = [value / 100 for value in range(101)]
    groups = {group: None for exhibit in studied for group in exhibit.results.groups}
    charts = []
    for group in groups:
        lines = []
        for colour, exhibit in enumerate(studied):
            for threshold, dashed in ((0, False), (5, True)):
                curve = exhibit.results.curves(group, threshold) if group in exhibit.results.groups else None
                if curve is not None:
                    title = f"{exhibit.title}, overlap {'0.75' if dashed else '0.5'}"
                    lines.append(Line(title, recalls, curve.tolist(), colour, dashed))
        if lines:
            charts.append(line_chart(f"{group_title(group)}", lines, "recall", (0.0, 1.0)))
    entries = [(exhibit.title, colour, False) for colour, exhibit in enumerate(studied)]
    entries = [("overlap 0.5", 0, False), ("overlap 0.75", 0, True)] if len(studied) == 1 else [
        *entries, ("dashed: overlap 0.75", 0, True)]
    return (f'{legend(entries)}<div class="plots">{"".join(charts)}</div>\n<p class="note">Precision over recall, the '
            "mean over a group's classes; AP is the area below.</p>")


def _errors(report: RunReport) -> str:
    studied = report.studied
    if not studied:
        return ""
    groups = [group for group in _SHOWN_COSTS
              if any(not math.isnan(e.costs.get(group, {}).get("ap50", math.nan)) for e in studied)]
    top = max((exhibit.costs[group][kind] for exhibit in studied for group in groups for kind in ERRORS
               if group in exhibit.costs and not math.isnan(exhibit.costs[group][kind])), default=0.0)
    several = len(studied) > 1
    titles = "".join(f'<th class="{"start" * (i == 0)}">{escape(e.title)}</th>' for i, e in enumerate(studied))
    names = [*map(group_title, groups), "how many"]
    over = "".join(f'<th class="over start" colspan="{len(studied)}">{escape(name)}</th>' if several else
                   f'<th class="start">{escape(name)}</th>' for name in names)
    under = f"<tr><th></th>{titles * len(names)}</tr>" if several else ""
    counts = [exhibit.results.verdicts.counts() for exhibit in studied]
    rows = []
    for kind in ERRORS:
        cells = [f'<td class="text"><strong>{kind}</strong><br><span class="soft">{_ERROR_WORDS[kind]}</span></td>']
        for group in groups:
            for i, exhibit in enumerate(studied):
                value = exhibit.costs.get(group, {}).get(kind, math.nan)
                width = 0 if math.isnan(value) else 100 * max(0.0, value) / max(top, 1e-9)
                cells.append(f'<td class="{"start" if i == 0 else ""}">{number(value)}<span class="bar"><i '
                             f'class="c{i % 8}" style="width:{width:.1f}%"></i></span></td>')
        cells += [f'<td class="{"start" if i == 0 else ""}">{count[kind]:,}</td>' for i, count in enumerate(counts)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<div class="scroll"><table class="errors"><thead><tr><th class="text">AP50 would rise by</th>'
            f'{over}</tr>{under}</thead><tbody>{"".join(rows)}</tbody></table></div>\n'
            '<p class="note">TIDE (Bolya et al., 2020): by how many points AP50 of a group would rise if this kind of '
            "error, and it alone, were corrected; the gains of several kinds do not add up. Detections of every score "
            "are counted at the right, most of which have a low one and cost little.</p>")


def _pictures(report: RunReport) -> str:
    if not report.scenes:
        return ""
    last = report.studied[-1]
    parts = [f'<p class="note">Detections that score {last.results.threshold:.2f} or more (the best balance of what is '
             'found and what is wrong, for each run its own), one at a place. <span class="right">Blue</span> is found '
             'and named right, <span class="wrong">orange</span> is wrong, or not found.</p>']
    for heading, scenes in report.scenes.items():
        pairs = " pairs" if len(scenes[0].panels) == 2 else ""
        figures = "\n".join(map(scene_figure, scenes))
        parts.append(f'<h3>{escape(heading)}</h3>\n<div class="gallery{pairs}">{figures}</div>')
    return "\n".join(parts)


def _recall(report: RunReport) -> str:
    measured = [exhibit for exhibit in report.exhibits if exhibit.recall]
    if not measured:
        return ""
    if not differing(exhibit.run.proposals for exhibit in measured):
        measured = measured[:1]
    columns = list({name: None for exhibit in measured for row in exhibit.recall.values() for name in row})
    rows = []
    for group in measured[0].recall:
        for index, exhibit in enumerate(measured):
            of = f'<td class="text">{escape(exhibit.title)}</td>' if len(measured) > 1 else ""
            name = escape(group_title(group)) if index == 0 else ""
            rows.append(f"<tr><td>{name}</td>{of}" + "".join(
                f"<td>{number(exhibit.recall.get(group, {}).get(column))}</td>" for column in columns) + "</tr>")
    of = '<th class="text">run</th>' if len(measured) > 1 else ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    stores = ", ".join(dict.fromkeys(str(exhibit.run.proposals) for exhibit in measured))
    return (f'<div class="scroll"><table><thead><tr><th>classes</th>{of}{head}</tr></thead><tbody>{"".join(rows)}'
            f'</tbody></table></div>\n<p class="note">How many of the objects the first k proposals of an image find, '
            "in per cent: recall@k at an overlap of 0.5, AR@k averaged over overlaps from 0.5 to 0.95. "
            f"<code>{escape(stores)}</code></p>")


def _times(report: RunReport) -> str:
    stages: dict[str, Mapping] = dict(report.recipe.stages) if report.recipe else {}
    for exhibit in report.exhibits if report.recipe is None else ():
        stages |= exhibit.run.stages
    parts = [timeline_table(stage_timelines(stages))] if stages else []
    if unfinished := [f"{name} ({stage.status})" for name, stage in stages.items() if stage.status != "done"]:
        parts.append(f'<p class="wrong">Not done: {escape(", ".join(unfinished))}</p>')
    rows = []
    for exhibit in report.exhibits:
        log = exhibit.run.log
        if log is None or log.median("time") is None:
            continue
        memory = log.peak("memory")
        rows.append(f"<tr><td>{escape(exhibit.title)}</td><td>{log.median('time'):.3f} s</td>"
                    f"<td>{log.median('data_time') or 0.0:.3f} s</td><td>{log.last_step:,}</td>"
                    f"<td>{f'{memory:,.0f} MB' if memory else '-'}</td></tr>")
    if rows:
        parts.append('<div class="scroll"><table><thead><tr><th>training</th><th>an iteration</th><th>of it, for data'
                     "</th><th>iterations</th><th>GPU memory</th></tr></thead><tbody>" + "".join(rows)
                     + "</tbody></table></div>")
    return "\n".join(parts)
