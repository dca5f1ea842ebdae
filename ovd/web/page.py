"""The page: three tabs in Gradio's blocks, with a look of its own and nothing from elsewhere."""

import gradio as gr

from ovd.web.desk import Desks
from ovd.web.detect_tab import DetectTab
from ovd.web.look import HEAD

TITLE = "Open-vocabulary detection"


def build_page(detect: DetectTab, desks: Desks) -> gr.Blocks:
    """The page's blocks."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(HEAD)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Detect", id="detect"):
                detect.build()

        def leave(request: gr.Request) -> None:
            desks.leave(request.session_hash)

        page.unload(leave)
    return page.queue(default_concurrency_limit=10, max_size=200)
