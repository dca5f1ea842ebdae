"""A piece of the report on the page, in the report's own style: neither style touches the other."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

import ovd.evaluation
from ovd.evaluation.table_script import SCRIPT

_LOCAL = """
:host { display: block; }
.page { color: var(--ink); font-family: inherit; font-size: 15px; line-height: 1.5; }
h2:first-child { margin-top: .6rem; }
.panels { --columns: 2; }
"""

_JS = r"""
const shadow = element.shadowRoot || element.attachShadow({ mode: 'open' });
const paint = () => {
  shadow.innerHTML = `<style>${props.style}</style><div class="page"></div>`;
  const page = shadow.querySelector('.page');
  page.innerHTML = props.value || '';
  const scope = { querySelectorAll: what => page.querySelectorAll(what), createElement: tag => window.document.createElement(tag) };
  (document => { SCRIPT })(scope);
};
watch('value', paint);
paint();
"""

from gradio.events import Dependency

class ReportView(gr.HTML):
    """Shows html of :mod:`ovd.evaluation.run_page`; its tables are sorted and filtered by their headings."""

    def __init__(self, value: str = "", **options: Any) -> None:
        super().__init__(value, html_template="", js_on_load=_JS.replace("SCRIPT", SCRIPT.replace('"use strict";', "")),
                         style=report_style(), **options)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def report_style() -> str:
    """The report's style for a shadow tree; dark where the page is."""
    here = Path(ovd.evaluation.__file__).parent
    text = "".join((here / name).read_text(encoding="utf-8") for name in ("report.css", "run_page.css"))
    text = text.replace(":root", ":host").replace("\nbody {", "\n.unused {").replace(" body { padding", " .unused { padding")
    return text + _LOCAL


def sections_html(sections: list[tuple[str, str]]) -> str:
    """(heading, content) pairs, one below the other."""
    return "\n".join(f"<section><h2>{escape(name)}</h2>\n{content}</section>" for name, content in sections)