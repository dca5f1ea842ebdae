"""The page: three tabs in Gradio's blocks, with a look of its own and nothing from elsewhere."""

import gradio as gr

from ovd.web.desk import Desks
from ovd.web.detect_tab import DetectTab
from ovd.web.look import HEAD, SHAPES_ONLY
from ovd.web.runs_tab import RunsTab
from ovd.web.search_tab import SearchTab

TITLE = "Open-vocabulary detection"


def build_page(detect: DetectTab, search: SearchTab, runs: RunsTab, desks: Desks) -> gr.Blocks:
    """The page's blocks."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(HEAD.format(note=SHAPES_ONLY if detect.examples else ""))  # the scenes are of shapes
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Detect", id="detect"):
                detect.build()
            with gr.Tab("Search", id="search"):
                search.build()
            with gr.Tab("Runs", id="runs") as tab:
                runs.build(tab)

        def leave(request: gr.Request) -> None:
            desks.leave(request.session_hash)

        page.unload(leave)
    return page.queue(default_concurrency_limit=10, max_size=200)
