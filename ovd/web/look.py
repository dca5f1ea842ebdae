"""How the page looks: the report's palette, system fonts, light and dark."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

HEAD = """<header class="top"><h1>Open-vocabulary detection</h1>
<p>Name what you look for, or draw a box around one.{note}</p></header>"""
SHAPES_ONLY = " This model knows drawn shapes alone; for photos, start <code>ovd serve --model photos</code>."

CSS = """
gradio-app { min-width: 0; max-width: 100vw; }
.gradio-container { width: 100% !important; max-width: 1320px !important; min-width: 0 !important;
  margin: 0 auto !important; padding: 0 !important; overflow: visible !important; }
.gradio-container > .main { padding: 18px 26px 60px !important; max-width: none !important; }
.html-container { padding: 0 !important; }
.top h1 { margin: 0; font-size: 1.45rem; letter-spacing: -.01em; }
.top p { margin: .15rem 0 .2rem; color: var(--body-text-color-subdued); }
.notice { margin: 0; padding: 9px 14px; border-radius: 8px; background: var(--background-fill-secondary);
  color: var(--body-text-color); overflow-wrap: anywhere; }
#notice:has(.wrong) { position: sticky; top: 8px; z-index: 1000 !important; overflow: visible !important; }
.notice.wrong { background: #fdebdd; color: #7a3300; box-shadow: inset 4px 0 0 #d55e00; }
.dark .notice.wrong { background: #3a2413; color: #ffc9a0; }
.source, .buttons { align-items: center; }
.buttons button, #upload { white-space: nowrap; }
#teach { gap: 10px; padding: 14px 16px; border-radius: 10px; background: var(--background-fill-secondary); }
.how { margin: 0; color: var(--body-text-color); }
.scroll { overflow-x: auto; }
table.found { border-collapse: collapse; border: 0 !important; min-width: min(100%, 560px); margin: 0;
  font-variant-numeric: tabular-nums; }
table.found tr { border: 0 !important; }
table.found th, table.found td { padding: .34rem .7rem; text-align: right; white-space: nowrap; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; color: var(--body-text-color); background: none; }
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
.dark button[role=tab][aria-selected=true] { color: #74b4e2 !important; }
footer { display: none !important; }
.gradio-container .column, .gradio-container .block, .gradio-container .row > *, .gradio-container main,
.gradio-container .wrap, .tabs, .tabitem { min-width: 0; max-width: 100%; }
.html-container { max-width: 100%; overflow-x: auto; }
"""

# not in CSS, which Gradio rewrites without the conditions
NARROW = """<style>@media (max-width: 640px) {
  html body .gradio-container.gradio-container > .main.main.main { padding: 12px 14px 40px !important; }
  .source { flex-wrap: wrap !important; }
  #upload { width: 100% !important; max-width: none !important; }
  .top h1 { font-size: 1.2rem !important; }
  .thumbs { flex-wrap: nowrap !important; overflow-x: auto; }
  .thumbs button { flex: none; }
}</style>"""


def theme() -> gr.themes.Base:
    """Blue on neutral greys, with the fonts that the visitor's system has."""
    return gr.themes.Base(primary_hue=gr.themes.Color(
        c50="#eaf4fb", c100="#d3e8f7", c200="#a8d1ef", c300="#74b4e2", c400="#3d95d2", c500="#0072b2", c600="#0068a3",
        c700="#00578a", c800="#00466f", c900="#003655", c950="#002438", name="blue"), neutral_hue="zinc",
        font=SANS, font_mono=MONO, radius_size="md", text_size="md").set(
            slider_color="*primary_500", button_primary_background_fill="*primary_500",
            button_primary_background_fill_hover="*primary_600", button_primary_text_color="white",
            button_large_text_size="*text_md", button_large_padding="9px 18px", button_large_text_weight="600",
            body_text_color_subdued="#62666e", body_text_color_subdued_dark="#a8adb7",
            block_info_text_color="#62666e", block_info_text_color_dark="#a8adb7",
            block_label_text_color="#3f4248", block_title_text_color="*body_text_color",
            block_title_text_color_dark="*body_text_color", input_background_fill="white",
            input_border_width="1px", input_border_color="#c9ccd2", input_border_color_dark="#4a4f58")
