"""The tables of a report of runs: figures by group, figures of each class, few-shot figures, settings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ovd.evaluation.charts import Dots, Line, legend, line_chart, scatter
from ovd.evaluation.report import GROUPS, group_title, number
from ovd.evaluation.run_report import Exhibit, RunReport, differing

FIGURES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large",
           "mask_ap": "mask AP", "mask_ap50": "mask AP50", "top1_ap50": "1-label AP50",
           "accuracy": "accuracy", "voc_ap50": "VOC AP50", "voc07_ap50": "VOC 2007 AP50"}
MOST_COMPARED = 4  # runs that have columns of their own in the table of classes
MOST_DIFFERENCES = 60
NOTABLE = 0.05  # per cent: smaller differences are none
MOST_STACKED = 6  # runs below each other under a group; more have a line each


def figures_table(report: RunReport) -> str:
    """Average precision by group of classes; under each group a row for every run, with the change from the first."""
    tested = [exhibit for exhibit in report.exhibits if exhibit.run.metrics]
    if not tested:
        return ""
    tables = [_by_group(exhibit.run.metrics) for exhibit in tested]
    found = {group: None for table in tables for group in table}
    groups = [group for group in GROUPS if group in found and group != "all"]
    groups += [group for group in found if group not in GROUPS] + ["all"] * ("all" in found)
    figures = [name for name in FIGURES
               if any(row.get(name) is not None for table in tables for row in table.values())]
    if len(tested) > MOST_STACKED:
        return _by_run(tested, tables, groups)
    several = len(tested) > 1
    head = '<th class="name">run</th>' * several + "".join(f"<th>{escape(FIGURES[name])}</th>" for name in figures)
    rows = []
    for group in groups:
        for index, (exhibit, table) in enumerate(zip(tested, tables)):
            cells = [f"<td>{escape(group_title(group)) if index == 0 else ''}</td>"]
            if several:
                cells.append(f'<td class="name">{escape(exhibit.title)}</td>')
            for name in figures:
                value = table.get(group, {}).get(name)
                best = max((other[group][name] for other in tables if other.get(group, {}).get(name) is not None),
                           default=None)
                change = _change(value, tables[0].get(group, {}).get(name)) if index else ""
                strong = ' class="best"' if several and value is not None and value == best else ""
                cells.append(f"<td{strong}>{number(value)}{change}</td>")
            kinds = ["inner"] * (group not in ("base", "novel", "all")) + ["first"] * (index == 0)
            rows.append(f'<tr class="{" ".join(kinds)}">{"".join(cells)}</tr>')
    note = ("All figures are in per cent, of boxes unless masks are named; detectors choose among all classes at once. "
            "AP is the mean over overlaps from 0.5 to 0.95; small objects have less than 32 x 32 pixels, large ones "
            "more than 96 x 96.")
    if "top1_ap50" in figures:
        note += " 1-label: a box has its best label only; accuracy: of the best label at true boxes."
    if several:
        note += f" Beside a figure: its change from {escape(tested[0].title)}."
    return (f'<div class="scroll"><table class="figures groups"><thead><tr><th>classes</th>{head}</tr></thead><tbody>'
            f'{"".join(rows)}</tbody></table></div>\n<p class="note">{note}</p>')


def _by_run(tested: Sequence[Exhibit], tables: Sequence[Mapping[str, Mapping[str, float | None]]],
            groups: Sequence[str]) -> str:
    """A line for every run, of many: AP and AP50 of each group."""
    figures = [(group, name) for group in groups for name in ("ap", "ap50")
               if any(table.get(group, {}).get(name) is not None for table in tables)]
    best = {(group, name): max((table[group][name] for table in tables
                                if table.get(group, {}).get(name) is not None), default=None)
            for group, name in figures}
    head = "".join(f"<th>{escape(group_title(group))} {FIGURES[name]}</th>" for group, name in figures)
    rows = []
    for exhibit, table in zip(tested, tables):
        cells = [f"<td>{escape(exhibit.title)}</td>"]
        for group, name in figures:
            value = table.get(group, {}).get(name)
            strong = ' class="best"' if value is not None and value == best[group, name] else ""
            cells.append(f"<td{strong}>{number(value)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<div class="scroll"><table class="figures sortable"><thead><tr><th>run</th>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>\n"
            '<p class="note">All figures are in per cent, of boxes; detectors choose among all classes at once.</p>')


def class_table(report: RunReport) -> str:
    """Figures of every class, which a script sorts and filters; with several runs the change from first to last."""
    shown = report.studied[:MOST_COMPARED]
    if not shown:
        return ""
    by_name = [{row.name: row for row in exhibit.classes} for exhibit in shown]
    first = list(by_name[-1].values())
    with_frequency = any(row.frequency for row in first)
    sizes = [name for name in ("small", "medium", "large") if any(not math.isnan(getattr(row, name)) for row in first)]
    masks = any(not math.isnan(row.mask_ap) for row in first)
    single = len(shown) == 1
    head = ['<th class="text">class</th>', '<th class="name">group</th>']
    head += ["<th>r / c / f</th>"] * with_frequency + ["<th>objects</th>"]
    if single:
        head += ["<th>AP</th>", "<th>AP50</th>", *(f"<th>{name}</th>" for name in sizes),
                 *["<th>mask AP</th>"] * masks]
    else:
        head += [f"<th>AP {escape(exhibit.title)}</th>" for exhibit in shown] + ["<th>change</th>"]
        head += [f"<th>AP50 {escape(exhibit.title)}</th>" for exhibit in shown] + ["<th>change</th>"]
    head.append('<th class="name">most often taken for</th>')
    rows = []
    for row in first:
        cells = [f"<td>{escape(row.name)}</td>", f'<td class="name">{escape(group_title(row.group))}</td>']
        cells += [f"<td>{escape(str(row.frequency))}</td>"] * with_frequency + [f"<td>{row.objects}</td>"]
        if single:
            values = [row.ap, row.ap50, *(getattr(row, name) for name in sizes), *[row.mask_ap] * masks]
            cells += [f"<td>{number(value)}</td>" for value in values]
        else:
            for figure in ("ap", "ap50"):
                values = [getattr(names[row.name], figure) if row.name in names else math.nan for names in by_name]
                cells += [f"<td>{number(value)}</td>" for value in values]
                cells.append(_delta_cell(values[-1], values[0]))
        other, count = row.taken_for
        cells.append(f'<td class="name">{f"{escape(other)} ({count})" if count else ""}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = ('<div class="scroll tall"><table class="sortable"><thead><tr>' + "".join(head)
             + f'</tr></thead><tbody>{"".join(rows)}</tbody></table></div>')
    left_out = len(report.studied) - len(shown)
    note = (f"The first {len(shown)} of {len(report.studied)} runs. " if left_out else "") + (
        "A click on a heading sorts. Taken for: by detections that score "
        f"{shown[-1].results.threshold:.2f} or more"
        + ("." if single else f" of {escape(shown[-1].title)}; change: from {escape(shown[0].title)} to "
           f"{escape(shown[-1].title)}."))
    return f'{table}\n<p class="note">{note}</p>'


def fewshot_section(report: RunReport) -> str:
    """Figures of classes that were added, by method and number of shots."""
    rows = [(exhibit, row) for exhibit in report.exhibits for row in exhibit.run.fewshot]
    if not rows:
        return ""
    several = len({exhibit.title for exhibit, _ in rows}) > 1
    lines: dict[str, list[tuple[float, float]]] = {}
    body = []
    for exhibit, row in rows:
        title = f"{exhibit.title}: {row['name']}" if several else str(row["name"])
        shots = row.get("shots")
        if shots and row.get("novel_ap50") is not None:
            lines.setdefault(title, []).append((float(shots), float(row["novel_ap50"])))
        cells = "".join(f'<td>{_spread(row.get(f"{group}_ap50"), row.get(f"{group}_std"))}</td>'
                        for group in ("base", "novel", "all"))
        body.append(f'<tr><td>{escape(title)}</td><td>{escape(str(shots or "-"))}</td>'
                    f"<td>{len(row.get('seeds') or ())}</td>{cells}</tr>")
    chart = ""
    if lines and len(lines) <= 8:
        drawn = [Line(title, *zip(*sorted(points)), colour) for colour, (title, points) in enumerate(lines.items())]
        chart = (legend((title, colour, False) for colour, title in enumerate(lines))
                 + f'<div class="plots">{line_chart("novel AP50 over shots", drawn, "shots")}</div>')
    return (f'{chart}<div class="scroll tall"><table class="sortable"><thead><tr><th class="text">method</th>'
            "<th>shots</th><th>seeds</th><th>base AP50</th><th>novel AP50</th><th>all AP50</th></tr></thead>"
            f"<tbody>{''.join(body)}</tbody></table></div>\n"
            '<p class="note">Mean over seeds ± standard deviation, per cent.</p>')


def projection_section(report: RunReport) -> str:
    """Class vectors and regions on a plane."""
    found = report.projection
    if found is None:
        return ""
    groups = list(dict.fromkeys(found.groups))
    layers = []
    for colour, group in enumerate(groups):
        mine = [index for index, label in enumerate(found.labels.tolist()) if found.groups[label] == group]
        if mine:
            layers.append(Dots(found.regions[mine], [f"region of a {found.names[found.labels[i]]}" for i in mine],
                               colour, 2.2))
    for colour, group in enumerate(groups):
        mine = [index for index, name in enumerate(found.groups) if name == group]
        layers.append(Dots(found.classes[mine], [f"{found.names[i]} ({group_title(group)})" for i in mine], colour, 5.0,
                           hollow=True))
    order = sorted(range(len(found.names)), key=lambda i: -float((found.classes[i] ** 2).sum()))
    labels = [(float(found.classes[i, 0]), float(found.classes[i, 1]), found.names[i]) for i in order]
    entries = legend((group_title(group), colour, False) for colour, group in enumerate(groups))
    return (f'{entries}<div class="plots wide">{scatter("Classes and regions", layers, labels)}</div>\n'
            f'<p class="note">Rings: the vectors of {len(found.names):,} classes; dots: {len(found.regions):,} '
            f"annotated regions of <code>{escape(found.source)}</code>. Each kind is centred; the two directions hold "
            f"{100 * found.explained:.0f} % of the variance (PCA). In all dimensions, the vector of its own class is "
            f"the nearest one for {100 * found.nearest:.1f} % of the regions.</p>")


def settings_tables(report: RunReport) -> str:
    """Settings side by side, those that differ marked; every difference of the configs; fingerprints; evaluations."""
    parts = []
    exhibits = report.exhibits
    if report.recipe is not None:
        parts.append(_pairs(report.recipe.settings))
    if exhibits and len(exhibits) <= MOST_COMPARED * 2:
        tables = [dict(exhibit.run.settings) for exhibit in exhibits]
        parts.append(_columns("setting", exhibits, list(dict.fromkeys(key for table in tables for key in table)),
                              tables))
        flat = [dict(_flatten(exhibit.run.decisive or {})) for exhibit in exhibits]
        keys = [key for key in dict.fromkeys(key for table in flat for key in table)
                if differing(table.get(key, "") for table in flat)] if all(flat) and len(flat) > 1 else []
        if keys:
            more = f" (the first {MOST_DIFFERENCES} of {len(keys)})" if len(keys) > MOST_DIFFERENCES else ""
            parts.append(f"<details><summary>Where the configs differ{more}</summary>"
                         + _columns("key", exhibits, keys[:MOST_DIFFERENCES], flat, mark=False) + "</details>")
        marks = [{name: value.removeprefix("sha256:")[:12] for name, value in exhibit.run.fingerprints.items()}
                 for exhibit in exhibits]
        if any(marks):
            parts.append("<details><summary>Fingerprints of what was read and made</summary>" + _columns(
                "file", exhibits, list(dict.fromkeys(key for table in marks for key in table)), marks) + "</details>")
    lines = [(exhibit, line) for exhibit in exhibits for line in exhibit.run.evaluations if "boxAP" in line]
    if lines:
        body = "".join(
            f'<tr><td>{escape(exhibit.title)}</td><td class="text">{escape(str(line.get("kind", "")))}</td>'
            f"<td>{escape(str(line.get('iteration') or '-'))}</td><td>{number(line.get('boxAP'))}</td>"
            f"<td>{number(line.get('bAP50'))}</td><td>{number((line.get('novel') or {}).get('bAP50'))}</td></tr>"
            for exhibit, line in lines)
        parts.append('<details><summary>Every evaluation</summary><div class="scroll"><table><thead><tr><th>run</th>'
                     '<th class="text">kind</th><th>iteration</th><th>AP</th><th>AP50</th><th>novel AP50</th></tr>'
                     f"</thead><tbody>{body}</tbody></table></div></details>")
    return "\n".join(parts)


def _by_group(metrics: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
    groups: dict[str, dict[str, float | None]] = {}
    for key, value in metrics.items():
        group, _, figure = key.rpartition("/")
        if figure in FIGURES:
            groups.setdefault(group, {})[figure] = value
    return groups


def _change(value: float | None, before: float | None) -> str:
    if value is None or before is None:
        return ""
    change = value - before
    kind = "same" if abs(change) < NOTABLE else "up" if change > 0 else "down"
    return f' <small class="{kind}">{change:+.1f}</small>'


def _delta_cell(value: float, before: float) -> str:
    if math.isnan(value) or math.isnan(before):
        return "<td>-</td>"
    change = value - before
    kind = "same" if abs(change) < NOTABLE else "up" if change > 0 else "down"
    return f'<td class="{kind}">{change:+.1f}</td>'


def _spread(value: float | None, deviation: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" + (f" ± {deviation:.1f}" if deviation else "")


def _flatten(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """(dotted key, value) of every setting; a step of a pipeline goes by its type, not by its place."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        names = [str(item["type"]).rpartition(".")[2] if isinstance(item, Mapping) and "type" in item else str(index)
                 for index, item in enumerate(value)]
        for index, (name, item) in enumerate(zip(names, value)):
            yield from _flatten(item, f"{path}.{name if names.count(name) == 1 else index}")
    else:
        yield path, str(value)


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f'<tr><td>{escape(name)}</td><td class="text">{escape(value)}</td></tr>' for name, value in rows)
    return f"<table><tbody>{body}</tbody></table>"


def _columns(corner: str, exhibits: Sequence[Exhibit], keys: Sequence[str], tables: Sequence[Mapping[str, str]],
             mark: bool = True) -> str:
    """A row for each key, a column for each run; rows whose values differ are marked."""
    if len(exhibits) == 1:
        return _pairs((key, str(tables[0].get(key, ""))) for key in keys)
    head = "".join(f'<th class="text">{escape(exhibit.title)}</th>' for exhibit in exhibits)
    body = []
    for key in keys:
        values = [str(table.get(key, "")) for table in tables]
        row = ' class="differs"' if mark and differing(values) else ""
        body.append(f"<tr{row}><td>{escape(key)}</td>"
                    + "".join(f'<td class="text">{escape(value)}</td>' for value in values) + "</tr>")
    return (f'<div class="scroll"><table class="settings"><thead><tr><th>{escape(corner)}</th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>')
