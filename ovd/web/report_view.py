"""A piece of the report on the page, in the report's own style: neither style touches the other."""

import re
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
  const scope = { querySelectorAll: what => page.querySelectorAll(what),
    createElement: tag => window.document.createElement(tag) };
  (document => { SCRIPT })(scope);
};
watch('value', paint);
paint();
"""


def report_view(**options: Any) -> gr.HTML:
    """Shows html of :mod:`ovd.evaluation.run_page`; its tables are sorted and filtered by their headings."""
    return gr.HTML("", html_template="", js_on_load=_JS.replace("SCRIPT", SCRIPT.replace('"use strict";', "")),
                   style=report_style(), **options)


def report_style() -> str:
    """The report's style for a shadow tree; dark where the page is."""
    here = Path(ovd.evaluation.__file__).parent
    text = "".join((here / name).read_text(encoding="utf-8") for name in ("report.css", "run_page.css"))
    return re.sub(r"(^|\s)body \{", r"\1.unused {", text.replace(":root", ":host"), flags=re.MULTILINE) + _LOCAL


def sections_html(sections: list[tuple[str, str]]) -> str:
    """(heading, content) pairs, one below the other."""
    return "\n".join(f"<section><h2>{escape(name)}</h2>\n{content}</section>" for name, content in sections)
