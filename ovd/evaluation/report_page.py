"""A report as one HTML file that needs nothing but itself: no scripts, fonts or pictures from elsewhere."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ovd.evaluation.report import FIGURES, Page, Scene, Timeline, group_title, number
from ovd.evaluation.table_script import SCRIPT

EXPLANATIONS = (
    "All figures are in per cent. Detectors choose among all classes at once, base and novel. AP50 is average "
    "precision at an overlap of 0.5; a box may have several labels there. With one label a box, only its best counts. "
    "Accuracy is how often the best class at a ground-truth box is the right one.")


def render_page(page: Page, sections: Sequence[tuple[str, str]] = ()) -> str:
    """The report as one HTML file.

    Args:
        sections: (heading, content) of :func:`ovd.evaluation.run_page.analysis`, shown after the pictures; classes
            among them take the place of the page's own.
    """
    classes = "" if any(name == "Classes" for name, _ in sections) else _classes(page)
    body = [_headline(page), _tiles(page), _figures(page), _scenes(page),
            *(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections), _recall(page), _timing(page),
            classes, _settings(page)]
    return html_file(page.title, body, with_runs=bool(sections))


def html_file(title: str, body: Sequence[str], with_runs: bool = True) -> str:
    """A page with its style inside; ``with_runs`` also with that of the runs' sections, and the script of tables."""
    here = Path(__file__)
    names = ("report.css", "run_page.css") if with_runs else ("report.css",)
    style = "".join(here.with_name(name).read_text(encoding="utf-8") for name in names)
    return ('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            + "\n".join(filter(None, body)) + (f"\n<script>{SCRIPT}</script>" if with_runs else "")
            + "\n</body>\n</html>\n")


def _headline(page: Page) -> str:
    warning = f'\n<p class="wrong">{escape(page.warning)}</p>' if page.warning else ""
    return f"<h1>{escape(page.title)}</h1>\n<p>{escape(page.introduction)}</p>{warning}"


def _tiles(page: Page) -> str:
    """The figures of the hardest group: that of the last group of novel classes, first method against last."""
    group = next((g for g in reversed(page.groups()) if g != "all"), None)
    if group is None or len(page.methods) < 2:
        return ""
    first, last = next(iter(page.methods)), next(reversed(page.methods))
    tiles = []
    for figure in page.figures():
        before, after = page.value(first, group, figure), page.value(last, group, figure)
        if before is None or after is None:
            continue
        tiles.append(f'<div class="tile"><div class="label">{escape(FIGURES[figure])}</div>'
                     f'<div class="value"><small>{before:.1f} &rarr;</small> {after:.1f}</div></div>')
    legend = f"{group_title(group).capitalize()}, from {page.methods[first]} to {page.methods[last]}, in per cent"
    return f'<h2>{escape(legend)}</h2>\n<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _figures(page: Page) -> str:
    over, titles = ["<th></th>"], ["<th>classes</th>"]
    for figure in page.figures():
        over.append(f'<th class="over start" colspan="{len(page.methods)}">{escape(FIGURES[figure])}</th>')
        titles += [f'<th{_start(i)}>{escape(title)}</th>' for i, title in enumerate(page.methods.values())]
    if page.ceiling:
        over.append('<th class="over start">accuracy</th>')
        titles.append('<th class="start">CLIP itself</th>')
    rows = []
    for group in page.groups():
        cells = [f"<td>{escape(group_title(group))}</td>"]
        for figure in page.figures():
            values = [page.value(method, group, figure) for method in page.methods]
            best = max((v for v in values if v is not None), default=None)
            for i, value in enumerate(values):
                classes = " ".join(["start"] * (i == 0) + ["best"] * (value is not None and value == best))
                bar = "bar last" if i == len(values) - 1 else "bar"
                cells.append(f'<td class="{classes}">{number(value)}'
                             f'<span class="{bar}"><i style="width:{value or 0:.1f}%"></i></span></td>')
        if page.ceiling:
            cells.append(f'<td class="start">{number(page.ceiling.get(group))}</td>')
        inner = ' class="inner"' if group not in ("base", "novel", "all") else ""
        rows.append(f"<tr{inner}>{''.join(cells)}</tr>")
    note = EXPLANATIONS + (" The last column is the ceiling: CLIP's own accuracy on ground-truth crops."
                           if page.ceiling else "")
    return (f'<h2>Figures</h2>\n<div class="scroll"><table class="figures"><thead><tr>{"".join(over)}</tr>'
            f'<tr>{"".join(titles)}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n'
            f'<p class="note">{escape(note)}</p>')


def _scenes(page: Page) -> str:
    if not page.scenes:
        return ""
    return ("<h2>Detections of novel classes</h2>\n<p class=\"note\">The images with the most novel objects, whatever "
            'the result. Colour marks what concerns novel classes: <span class="right">blue</span> is named right, '
            '<span class="wrong">orange</span> is named wrong or is not there. Base classes have thin grey boxes. '
            "Numbers are scores in per cent.</p>\n" + "\n".join(map(scene_figure, page.scenes)))


def scene_figure(scene: Scene) -> str:
    """An image as every method sees it, side by side; one below the other on a phone."""
    panels = "".join(f'<div>{escape(title)}<img src="{_data_uri(content)}" alt="{escape(title)}: '
                     f'{escape(scene.caption)}"></div>' for title, content in scene.panels.items())
    return (f'<figure><div class="panels" style="--columns:{len(scene.panels)}">{panels}</div>'
            f"<figcaption>{escape(scene.caption)}</figcaption></figure>")


def _recall(page: Page) -> str:
    if not page.recall:
        return ""
    columns = list(next(iter(page.recall.values())))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(f"<tr><td>{escape(group_title(group))}</td>"
                   + "".join(f"<td>{number(row.get(name))}</td>" for name in columns) + "</tr>"
                   for group, row in page.recall.items())
    return (f'<h2>Recall of the proposals</h2>\n<table><thead><tr><th>classes</th>{head}</tr></thead><tbody>{rows}'
            '</tbody></table>\n<p class="note">How many of the objects the first k proposals of an image find, in per '
            "cent: recall@k at an overlap of 0.5, AR@k averaged over overlaps from 0.5 to 0.95.</p>")


def _timing(page: Page) -> str:
    if not page.timelines:
        return ""
    minutes, seconds = divmod(round(page.total_seconds), 60)
    return f"<h2>Stages</h2>\n<p>{minutes} min {seconds:02d} s in total.</p>\n{timeline_table(page.timelines)}"


def timeline_table(timelines: Sequence[Timeline]) -> str:
    """When each stage ran, how long, and with how much memory."""
    end = max([span[1] for line in timelines for span in line.spans], default=0.0) or 1.0
    rows = []
    for line in timelines:
        bars = "".join(f'<i style="left:{100 * begin / end:.2f}%;width:{100 * (stop - begin) / end:.2f}%"></i>'
                       for begin, stop in line.spans)
        seconds = f"{line.seconds:.0f} s" + (" *" if line.reused else "")
        rows.append(f'<tr><td>{escape(line.name)}</td><td class="track"><div>{bars}</div></td><td>{seconds}</td>'
                    f"<td>{line.peak_memory_mb:,.0f} MB</td></tr>")
    reused = " * was there already." if any(line.reused for line in timelines) else ""
    return ('<div class="scroll">'
            '<table class="chart"><thead><tr><th>stage</th><th></th><th>time</th><th>memory</th></tr></thead>'
            f'<tbody>{"".join(rows)}</tbody>'
            f'</table></div>\n<p class="note">Memory is the largest resident size of one process.{reused}</p>')


def _classes(page: Page) -> str:
    if not page.classes:
        return ""
    head = "".join(f"<th>{escape(title)}</th>" for title in page.methods.values())
    rows = "".join(f'<tr><td>{escape(row.name)}</td><td class="text">{escape(group_title(row.group))}</td>'
                   f"<td>{row.objects}</td>{''.join(f'<td>{number(value)}</td>' for value in row.ap50)}</tr>"
                   for row in page.classes)
    return (f"<h2>Classes</h2>\n<details><summary>AP50 of each of {len(page.classes)} classes</summary>\n"
            '<div class="scroll"><table><thead><tr><th>class</th><th class="text">group</th><th>objects</th>'
            f"{head}</tr></thead><tbody>{rows}</tbody></table></div></details>")


def _settings(page: Page) -> str:
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="text">{escape(value)}</td></tr>'
                   for name, value in page.settings)
    text = f"<h2>Settings</h2>\n<table><tbody>{rows}</tbody></table>" if rows else ""
    if page.commands:
        rows = "".join(f'<tr><td>{escape(name)}</td><td class="text"><code>{escape(command)}</code></td></tr>'
                       for name, command in page.commands)
        text += f"\n<details><summary>The command of each stage</summary><table><tbody>{rows}</tbody></table></details>"
    if page.artefacts:
        rows = "".join(f'<tr><td class="text"><code>{escape(path)}</code></td><td class="text">{escape(kind)}</td>'
                       f'<td class="text"><code>{escape(mark)}</code></td></tr>' for path, kind, mark in page.artefacts)
        text += ("\n<details><summary>What was made, with fingerprints</summary>"
                 f"<table><tbody>{rows}</tbody></table></details>")
    return text


def _start(column: int) -> str:
    return ' class="start"' if column == 0 else ""


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
