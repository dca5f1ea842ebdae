"""The third tab: finished runs with their figures, classes, and worst and best pictures."""

from html import escape
from typing import Any

import gradio as gr

from ovd.errors import UserError
from ovd.evaluation.report import group_title
from ovd.web.board import data_url
from ovd.web.events import guarded, sentence
from ovd.web.report_view import report_view, sections_html
from ovd.web.run_shelf import RunShelf, ShownRun
from ovd.web.words import notice

A_PAGE = 4
FIRST = ("Figures", "Few-shot figures", "Classes")  # the other sections are one click away
KINDS = ("worst first", "best first")
HOW = """<div class="explain"><p>Here you look into finished runs: figures, classes, and pictures of what they got
wrong. Name their work directories, or that of a recipe:</p>
<pre>ovd serve --runs work_dirs/vild work_dirs/vild_text</pre></div>"""


class RunsTab:
    """Builds the tab within ``gr.Blocks``, and answers its events.

    Args:
        shelf: The runs; None where none were named.
    """

    def __init__(self, shelf: RunShelf | None) -> None:
        self.shelf = shelf

    def build(self, tab: gr.Tab) -> None:
        """The components and their events."""
        if self.shelf is None:
            gr.HTML(HOW)
            return
        names = self.shelf.names
        chosen = gr.Dropdown(names, value=names[0], label="Run", elem_id="run", filterable=len(names) > 8)
        said = gr.HTML(elem_id="run-notice")
        figures = report_view(elem_id="figures")
        with gr.Row(elem_classes="buttons", elem_id="pictures-bar"):
            kind = gr.Radio(KINDS, value=KINDS[0], label="Pictures", elem_id="kind", scale=2, min_width=280)
            back = gr.Button("← Back", elem_id="back", scale=1, min_width=90)
            on = gr.Button("Next →", elem_id="next", scale=1, min_width=90)
        place = gr.Number(0, visible=False, precision=0)
        pictures = report_view(elem_id="pictures")
        with gr.Accordion("Everything else about this run", open=False, elem_id="details"):
            details = report_view()
        everything = [figures, said, details, pictures, place]
        quiet = {"show_progress": "minimal", "show_progress_on": said}
        chosen.change(guarded(self.show, 5), [chosen, kind], everything, api_name="run", **quiet)
        tab.select(guarded(self.show, 5), [chosen, kind], everything, api_name=False, **quiet)
        some = [pictures, said, place]
        kind.change(guarded(self.first, 3), [chosen, kind], some, api_name="pictures", **quiet)
        on.click(guarded(self.onward, 3), [chosen, kind, place], some, api_name="next", **quiet)
        back.click(guarded(self.backward, 3), [chosen, kind, place], some, api_name="back", **quiet)

    def show(self, name: str, kind: str, _: gr.Request) -> list[Any]:
        """Another run."""
        shown = self.shelf.get(name)
        first = [section for section in shown.sections if section[0] in FIRST]
        others = [section for section in shown.sections if section[0] not in FIRST]
        pictures, said, place = self._page(shown, kind, 0)
        return [_tiles(shown) + sections_html(first), said, sections_html(others), pictures, place]

    def first(self, name: str, kind: str, _: gr.Request) -> list[Any]:
        """Worst or best pictures."""
        return self._page(self.shelf.get(name), kind, 0)

    def onward(self, name: str, kind: str, place: float, _: gr.Request) -> list[Any]:
        """The next pictures."""
        return self._page(self.shelf.get(name), kind, int(place) + A_PAGE)

    def backward(self, name: str, kind: str, place: float, _: gr.Request) -> list[Any]:
        """The pictures before."""
        return self._page(self.shelf.get(name), kind, int(place) - A_PAGE)

    def _page(self, shown: ShownRun, kind: str, place: int) -> list[Any]:
        status = sentence(shown.run.status or "a run")
        ranked = list(shown.ranked) if kind == KINDS[0] else list(reversed(shown.ranked))
        if not ranked:
            why = sentence(shown.problem) if shown.problem else " ".join(
                f"Not there: {missing.what}. {missing.command}" for missing in shown.run.missing())
            return ["", notice(f"{status} {why}", wrong=bool(shown.problem)), 0]
        place = min(max(place, 0), (len(ranked) - 1) // A_PAGE * A_PAGE)
        figures, trouble = [], ""
        for row in ranked[place:place + A_PAGE]:
            try:
                panels = "".join(f'<div>{escape(title)}<img src="{data_url(pixels)}" alt="{escape(title)}"></div>'
                                 for title, pixels in shown.pictures(row.image_id).items())
            except UserError as error:
                trouble = sentence(str(error))
                continue
            figures.append(
                f'<figure><div class="panels">{panels}</div><figcaption>{escape(shown.results.file_name(row.image_id))}'
                f": {row.correct} right, {row.missed} not found or misnamed, {row.wrong} wrong</figcaption></figure>")
        last = min(place + A_PAGE, len(ranked))
        head = (f'<p class="note">Pictures {place + 1} to {last} of {len(ranked)}; '
                'blue is <span class="right">right</span>, orange is <span class="wrong">wrong or missed</span>; '
                f"detections that score {shown.results.threshold:.2f} or more.</p>")
        return [f'{head}<div class="gallery pairs">{"".join(figures)}</div>', notice(f"{status} {trouble}".strip(),
                                                                                   wrong=bool(trouble)), place]


def _tiles(shown: ShownRun) -> str:
    """AP50 of the groups, large."""
    figures = shown.run.metrics or {}
    tiles = [f'<div class="tile"><div class="label">AP50 of {escape(group_title(group))} classes</div>'
             f'<div class="value">{figures[f"{group}/ap50"]:.1f}</div></div>'
             for group in ("base", "novel", "all") if figures.get(f"{group}/ap50") is not None]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""
