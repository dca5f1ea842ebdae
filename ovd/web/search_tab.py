"""The second tab: regions of a store, ranked by words, by an example, or by both."""

import time
from html import escape
from typing import Any

import gradio as gr

from ovd.errors import UserError
from ovd.stores.hits import Hit
from ovd.web.board import board, data_url, drawn_boxes
from ovd.web.desk import Desks
from ovd.web.events import guarded, refuse, taken
from ovd.web.finder import Finder, sample_of
from ovd.web.uploads import Limits, Picture
from ovd.web.words import notice

HITS = 24
MOST_HITS = 96
LONGEST_QUERY = 300
HOW = """<div class="explain"><p>Here you search a collection of pictures for regions that look like your words, or like
an example. It needs a region store (<code>ovd embed-regions</code>; the embedded benchmark's recipe makes one):</p>
<pre>ovd serve --index data/shapes/regions/train</pre></div>"""


class SearchTab:
    """Builds the tab within ``gr.Blocks``, and answers its events.

    Args:
        desks: What visitors work with.
        finder: The store; None where none was named.
        limits, folder: Of uploads, and where the framework puts them.
    """

    def __init__(self, desks: Desks, finder: Finder | None, limits: Limits, folder: str) -> None:
        self.desks, self.finder, self.limits, self.folder = desks, finder, limits, folder

    def build(self) -> None:
        """The components and their events."""
        if self.finder is None:
            gr.HTML(HOW)
            return
        with gr.Row(elem_classes="bench"):
            with gr.Column(scale=2, min_width=300):
                query = gr.Textbox(label="Look for regions of", lines=1, elem_id="query",
                                   placeholder="a dotted red star", info=f"among {len(self.finder):,} regions of "
                                   f"{len(self.finder.store.image_ids):,} pictures")
                find = gr.Button("Search", variant="primary", elem_id="search")
                count = gr.Slider(6, MOST_HITS, HITS, step=6, label="Hits", elem_id="hits")
            with gr.Column(scale=3, min_width=300), gr.Accordion("… or like an example", open=False, elem_id="sample"):
                picture = board(elem_id="sample-picture", field="sample-upload", tall=45, bytes=self.limits.file_bytes,
                              empty="Drop a picture here, then drag a box around what you look for.")
                with gr.Row(elem_classes="buttons"):
                    upload = gr.UploadButton("Choose a picture", elem_id="sample-upload", size="sm", min_width=140)
                    detected = gr.Button("Take the one from Detect", size="sm", min_width=170, elem_id="sample-take")
                    clear = gr.Button("No example", size="sm", min_width=110, elem_id="sample-clear")
                weight = gr.Slider(0, 1, 0.5, step=0.05, label="Weight of the words beside the example",
                                   elem_id="weight")
        said = gr.HTML(elem_id="search-notice")
        hits = gr.HTML(elem_id="regions")
        inputs, outputs = [query, picture, weight, count], [hits, said]
        gr.on([find.click, query.submit], guarded(self.search, 2), inputs, outputs, api_name="search",
              show_progress="minimal", show_progress_on=said)
        gr.on([weight.release, count.release], guarded(self.search, 2), inputs, outputs, api_name=False,
              trigger_mode="always_last", show_progress="hidden")
        upload.upload(guarded(self.upload, 2), upload, [picture, said], api_name="sample", show_progress="minimal",
                      show_progress_on=picture)
        picture.refuse(guarded(refuse(self.limits), 1, at=0), None, said, api_name=False, show_progress="hidden")
        detected.click(guarded(self.take, 2), None, [picture, said], api_name="sample_take", show_progress="hidden")
        clear.click(guarded(self.clear, 2), None, [picture, said], api_name="sample_clear", show_progress="hidden")

    def search(self, text: str, boxes: Any, weight: float, count: float, request: gr.Request) -> list[Any]:
        """Search."""
        text = " ".join((text or "").split())
        if len(text) > LONGEST_QUERY:
            raise UserError(f"These are too many words: the most is {LONGEST_QUERY} letters.")
        drawn = drawn_boxes(boxes)
        sample = self.desks.of(request.session_hash).sample
        example = None if sample is None else sample_of(sample.pixels, drawn)
        began = time.perf_counter()
        found = self.finder.find(text, example, min(max(float(weight), 0.0), 1.0), min(max(int(count), 1), MOST_HITS))
        seconds = time.perf_counter() - began
        what = " and ".join(filter(None, [f"“{text}”" if text else "", "the example" if example else ""]))
        return [self._tiles(found), notice(f"The {len(found)} regions that fit {what} best, of {len(self.finder):,}, "
                                           f"in {seconds:.2f} s.")]

    def upload(self, path: str, request: gr.Request) -> list[Any]:
        """An example picture."""
        return self._sampled(self.desks.of(request.session_hash), taken(path, self.folder, self.limits))

    def take(self, request: gr.Request) -> list[Any]:
        """The picture of the first tab as the example."""
        desk = self.desks.of(request.session_hash)
        if desk.picture is None:
            raise UserError("There is no picture on the Detect tab yet.")
        return self._sampled(desk, desk.picture)

    def clear(self, request: gr.Request) -> list[Any]:
        """No example."""
        self.desks.of(request.session_hash).sample = None
        return [gr.update(src="", turn=time.time(), alt=""), ""]

    def _sampled(self, desk: Any, picture: Picture) -> list[Any]:
        desk.sample = picture
        said = "Drag a box around what you look for (without one, all of the picture is), then press Search."
        return [gr.update(src=data_url(picture.pixels), turn=time.time(), alt=picture.name),
                notice(f"{said} {picture.note}".strip())]

    def _tiles(self, found: list[Hit]) -> str:
        tiles = []
        for rank, hit in enumerate(found, 1):
            try:
                shown = f'<img src="{data_url(self.finder.picture(hit))}" alt="hit {rank}" loading="lazy">'
            except UserError as error:
                shown = f'<p class="notice wrong">{escape(str(error))}</p>'
            where = ", ".join(f"{value:.0f}" for value in hit.box)
            tiles.append(f'<figure>{shown}<figcaption><b>{rank}</b> <span>{hit.score:.3f}</span><br>'
                         f'<small title="box {where}">{escape(self.finder.name(hit))}</small></figcaption></figure>')
        return f'<div class="regions">{"".join(tiles)}</div>'
