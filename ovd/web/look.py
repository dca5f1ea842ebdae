"""How the page looks: the report's palette, system fonts, light and dark."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

HEAD = """<header class="top"><h1>Open-vocabulary detection</h1>
<p>Name what you look for, or draw a box around one.</p></header>"""

CSS = """
.gradio-container { max-width: 1320px !important; padding: 14px 22px 60px !important; }
.top h1 { margin: 0; font-size: 1.45rem; letter-spacing: -.01em; }
.top p { margin: .15rem 0 .2rem; color: var(--body-text-color-subdued); }
.notice { margin: 0; padding: 9px 14px; border-radius: 8px; background: var(--background-fill-secondary);
  color: var(--body-text-color); }
.notice.wrong { background: #fdebdd; color: #7a3300; box-shadow: inset 4px 0 0 #d55e00; }
.dark .notice.wrong { background: #3a2413; color: #ffc9a0; }
.source, .buttons { align-items: center; }
.how { margin: 0; color: var(--body-text-color); }
.scroll { overflow-x: auto; }
table.found { border-collapse: collapse; min-width: min(100%, 560px); font-variant-numeric: tabular-nums; }
table.found th, table.found td { padding: .34rem .7rem; text-align: right; white-space: nowrap; border: 0;
  border-bottom: 1px solid var(--border-color-primary); color: var(--body-text-color); }
table.found th { font-weight: 600; font-size: .88rem; }
table.found th:first-child, table.found td:first-child { text-align: left; padding-left: 0; }
table.found i { display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 50%; }
.explain { max-width: 46rem; padding: 6px 2px; }
.explain pre { padding: 10px 14px; border-radius: 8px; background: var(--background-fill-secondary); overflow-x: auto; }
.regions { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 14px; }
.regions figure { margin: 0; min-width: 0; }
.regions img { width: 100%; height: auto; margin: 0; border-radius: 6px; display: block; }
.regions figcaption { margin-top: 4px; font-size: 14px; line-height: 1.35; font-variant-numeric: tabular-nums; }
.regions small { display: block; color: var(--body-text-color-subdued); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
footer { display: none !important; }
@media (max-width: 640px) { .gradio-container { padding: 10px 12px 40px !important; } .top h1 { font-size: 1.2rem; } }
"""


def theme() -> gr.themes.Base:
    """Blue on neutral greys, with the fonts that the visitor's system has."""
    return gr.themes.Base(primary_hue=gr.themes.Color(
        c50="#eaf4fb", c100="#d3e8f7", c200="#a8d1ef", c300="#74b4e2", c400="#3d95d2", c500="#0072b2", c600="#0068a3",
        c700="#00578a", c800="#00466f", c900="#003655", c950="#002438", name="blue"), neutral_hue="zinc",
        font=SANS, font_mono=MONO, radius_size="md", text_size="md").set(
            slider_color="*primary_500", button_primary_background_fill="*primary_500",
            button_primary_background_fill_hover="*primary_600", button_primary_text_color="white")
