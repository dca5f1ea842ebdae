"""The first tab: a picture, words, boxes of new classes, a threshold."""

import time
from typing import Any

import gradio as gr

from ovd.apis import Detector
from ovd.errors import UserError
from ovd.web.board import board, data_url, drawn_boxes, thumbnail
from ovd.web.chips import chip_list, thumbnails
from ovd.web.desk import Desk, Desks
from ovd.web.downloads import download, json_file, png_file
from ovd.web.events import guarded, refuse, taken
from ovd.web.scenes import Example
from ovd.web.uploads import Limits
from ovd.web.words import chips, notice, summary, table, typed_names, written

THRESHOLD = 0.3


class DetectTab:
    """Builds the tab within ``gr.Blocks``, and answers its events.

    Args:
        desks: What visitors work with.
        detector: Shared by all; read only.
        examples: Pictures to choose from; none where the detector knows nothing of them.
        limits, folder: Of uploads, and where the framework puts them.
        knows_words: Whether the detector makes classes of words.
    """

    def __init__(self, desks: Desks, detector: Detector, examples: list[Example], limits: Limits, folder: str,
                 knows_words: bool = True) -> None:
        self.desks, self.examples, self.limits, self.folder = desks, examples, limits, folder
        self.own = len(detector.own_names)
        self.has_masks = detector.has_masks
        self.knows_words = knows_words
        self.takes_names = knows_words or self.own > 0
        self.own_words = f"  (empty: the {self.own:,} classes that the model knows)" if self.own else ""

    def build(self) -> None:
        """The components and their events."""
        said = gr.HTML(elem_id="notice")
        with gr.Row(elem_classes="bench"):
            with gr.Column(scale=3, min_width=320):
                picture = board(elem_id="picture", field="upload", paste=True, bytes=self.limits.file_bytes,
                                   empty="Drop a picture here, or choose one below.")
                with gr.Row(elem_classes="source"):
                    upload = gr.UploadButton("Choose your picture", elem_id="upload", size="md", min_width=210,
                                             scale=0, variant="primary" if not self.examples else "secondary")
                    thumbs = thumbnails(pictures=[thumbnail(one.picture.pixels) for one in self.examples],
                                    elem_id="examples", visible=bool(self.examples), min_width=300)
            with gr.Column(scale=2, min_width=320):
                words = gr.Textbox(label="Look for", lines=2, max_lines=8, elem_id="words", submit_btn=False,
                                   visible=self.takes_names, placeholder="zebra, traffic cone, …" + self.own_words)
                with gr.Row(elem_classes="buttons"):
                    find = gr.Button("Find", variant="primary", visible=self.takes_names, elem_id="find", scale=1,
                                     min_width=80)
                    every = gr.Button(f"All {self.own:,} known classes", elem_id="every", scale=2, min_width=200,
                                      visible=bool(self.own))
                threshold = gr.Slider(0.02, 0.98, THRESHOLD, step=0.01, label="Threshold", elem_id="threshold",
                                           info="lowest score that is shown")
                masks = gr.Checkbox(True, label="Masks", visible=self.has_masks, elem_id="masks")
                listed = chip_list(elem_id="classes")
                with gr.Column(elem_id="teach"):
                    gr.HTML('<p class="how"><b>Teach a new class by example.</b> Drag a box around one on the picture; '
                            "more boxes are better, on other pictures too.</p>")
                    with gr.Row(elem_classes="buttons"):
                        name = gr.Textbox(show_label=False, label="Name of the new class", container=False, scale=3,
                                          placeholder="What is it called?", elem_id="class-name", min_width=120)
                        teach = gr.Button("Add class", elem_id="add", scale=1, min_width=128)
                    by_word = gr.Checkbox(self.knows_words, label="The name describes it: use the word too",
                                          elem_id="by-word", container=False, visible=self.knows_words)
        found = gr.HTML(elem_id="found")
        with gr.Row(elem_classes="buttons downloads"):
            as_json = gr.Button("Save as JSON", size="sm", elem_id="save-json", scale=0, min_width=150)
            as_png = gr.Button("Save the picture", size="sm", elem_id="save-png", scale=0, min_width=150)
        saved = download(elem_id="download")

        view = [picture, said, listed, found]
        how = [threshold, masks]
        quiet = {"show_progress": "hidden"}
        gr.context.Context.root_block.load(guarded(self.enter, 5), how, [*view, words], api_name="enter", **quiet)
        thumbs.pick(guarded(self.example, 5), [thumbs, words, *how], [*view, words],
                    api_name="example", **quiet)
        upload.upload(guarded(self.upload, 4), [upload, *how], view, api_name="upload", show_progress="minimal",
                      show_progress_on=picture)
        picture.refuse(guarded(refuse(self.limits), 1, at=0), None, said, api_name=False, **quiet)
        gr.on([find.click, words.submit], guarded(self.find, 4), [words, *how], view, api_name="find",
              show_progress="minimal", show_progress_on=said)
        every.click(guarded(self.every, 5), how, [*view, words], api_name="every", **quiet)
        gr.on([threshold.input, masks.input], guarded(self.look, 4), how, view, api_name="threshold",
              trigger_mode="always_last", **quiet)
        listed.remove(guarded(self.remove, 5), how, [*view, words], api_name="remove_chip", **quiet)
        gr.on([teach.click, name.submit], guarded(self.teach, 6),
              [name, picture, by_word, *how], [*view, words, name], api_name="teach",
              show_progress="minimal", show_progress_on=said)
        as_json.click(guarded(self.save_json, 2), how, [saved, said], api_name="json", **quiet)
        as_png.click(guarded(self.save_png, 2), how, [saved, said], api_name="png", **quiet)

    def enter(self, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """A visitor comes: the first example is on the table, or nothing."""
        desk = self.desks.of(request.session_hash)
        if not self.examples:
            begin = "Choose a picture to begin." if self.knows_words else \
                "Choose a picture to begin. This model knows no words: draw a box around what you look for."
            return [gr.update(src="", turn=desk.shown), notice(begin), chips(desk, None), "", ""]
        return self._example(desk, 0, "", threshold, masks)

    def example(self, number: int, words: str, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """An example picture was chosen; its words come with it unless the visitor has typed others."""
        return self._example(self.desks.of(request.session_hash), number, words, threshold, masks)

    def _example(self, desk: Desk, number: int, words: str, threshold: float, masks: bool) -> list[Any]:
        if not isinstance(number, int) or not 0 <= number < len(self.examples):
            raise UserError("There is no such example.")
        chosen = self.examples[number]
        names = typed_names(words)
        if not names or any(names == one.names for one in self.examples):
            names = chosen.names
        desk.show(chosen.picture)
        desk.choose(names)
        return [*self._view(desk, threshold, masks), written(names)]

    def upload(self, path: str, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """A picture was uploaded. Its file is deleted as soon as it is read."""
        desk = self.desks.of(request.session_hash)
        desk.show(taken(path, self.folder, self.limits))
        return self._view(desk, threshold, masks, desk.picture.note)

    def find(self, words: str, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """Other words."""
        desk = self.desks.of(request.session_hash)
        desk.choose(typed_names(words))
        return self._view(desk, threshold, masks)

    def every(self, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """The model's own classes."""
        desk = self.desks.of(request.session_hash)
        desk.choose([])
        return [*self._view(desk, threshold, masks), ""]

    def look(self, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """Another threshold."""
        return self._view(self.desks.of(request.session_hash), threshold, masks)

    def remove(self, event: gr.EventData, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """A class was crossed out."""
        desk = self.desks.of(request.session_hash)
        desk.remove(str(event.name))
        return [*self._view(desk, threshold, masks), self._words(desk)]

    def teach(self, name: str, boxes: Any, by_word: bool, threshold: float, masks: bool,
              request: gr.Request) -> list[Any]:
        """A class of the boxes that were drawn."""
        desk = self.desks.of(request.session_hash)
        count = desk.teach(name, drawn_boxes(boxes), by_word)
        note = f"“{' '.join(name.split())}” is known from {count} box{'es' * (count > 1)} now."
        board, *others = self._view(desk, threshold, masks, note)
        return [{**board, "turn": time.time(), "value": []}, *others, self._words(desk), ""]

    def save_json(self, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """What is shown, as json."""
        desk = self.desks.of(request.session_hash)
        return [json_file(desk.found(threshold, masks), desk.picture), gr.skip()]

    def save_png(self, threshold: float, masks: bool, request: gr.Request) -> list[Any]:
        """The picture that is shown."""
        desk = self.desks.of(request.session_hash)
        return [png_file(desk.found(threshold, masks), desk.picture), gr.skip()]

    def _words(self, desk: Desk) -> str:
        words = desk.words
        return "" if tuple(words) == desk.detector.own_names else written(words)

    def _view(self, desk: Desk, threshold: float, masks: bool, note: str = "") -> list[Any]:
        found = desk.found(threshold, masks)
        seen = ", ".join(found.names[:8]) or "nothing"
        board = gr.update(src=data_url(found.plot()), turn=desk.shown, alt=f"{desk.picture.name}: {seen}")
        return [board, summary(found, note), chips(desk, found), table(found)]
