"""Small lists to click on: the classes with their colours, and the example pictures."""

from typing import Any

import gradio as gr

_CHIPS_CSS = """
.chips { display: flex; flex-wrap: wrap; gap: 6px; max-height: 190px; overflow-y: auto; }
.chip { display: inline-flex; align-items: center; gap: 7px; padding: 3px 4px 3px 10px; border-radius: 99px;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
  color: var(--body-text-color); font-size: 14px; line-height: 1.4; max-width: 100%; }
.chip i { flex: none; width: 10px; height: 10px; border-radius: 50%; }
.chip span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.chip em { font-style: normal; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.chip button { flex: none; width: 26px; height: 26px; border: 0; border-radius: 50%; background: none; cursor: pointer;
  color: var(--body-text-color-subdued); font: 16px/26px sans-serif; padding: 0; }
.chip button:hover, .chip button:focus-visible { background: var(--border-color-primary);
  color: var(--body-text-color); }
.more { font-size: 14px; padding: 5px 8px; color: var(--body-text-color-subdued); }
"""

_CHIPS_JS = r"""
const paint = () => {
  const list = element.querySelector('.chips');
  if (!list) return;
  const { classes = [], more = '' } = props.value || {};
  list.replaceChildren(...classes.map(one => {
    const [chip, dot, name, count, away] = ['div', 'i', 'span', 'em', 'button'].map(tag => document.createElement(tag));
    chip.className = 'chip';
    chip.setAttribute('role', 'listitem');
    chip.title = one.title;
    dot.style.background = one.colour;
    name.textContent = one.name;
    count.textContent = one.count;
    away.type = 'button';
    away.textContent = '×';
    away.setAttribute('aria-label', 'Remove ' + one.name);
    away.addEventListener('click', () => trigger('remove', { name: one.name }));
    chip.append(dot, name, count, away);
    return chip;
  }));
  if (more) {
    const rest = document.createElement('span');
    rest.className = 'more';
    rest.textContent = more;
    list.append(rest);
  }
};
watch('value', paint);
paint();
"""

_THUMBS_CSS = """
.thumbs { display: flex; flex-wrap: wrap; gap: 8px; }
.thumbs button { padding: 0; margin: 0 !important; border: 2px solid transparent; border-radius: 8px; overflow: hidden;
  cursor: pointer;
  background: none; line-height: 0; }
.thumbs button:hover, .thumbs button:focus-visible { border-color: var(--color-accent); outline: none; }
.thumbs img { width: 58px; height: 58px; object-fit: cover; margin: 0; }
"""

_THUMBS_JS = r"""
element.addEventListener('click', event => {
  const chosen = event.target.closest('button[data-number]');
  if (chosen) { props.value = Number(chosen.dataset.number); trigger('pick'); }
});
const paint = () => {
  const list = element.querySelector('.thumbs');
  if (!list || list.childElementCount) return;
  props.pictures.forEach((src, number) => {
    const button = document.createElement('button'), image = document.createElement('img');
    button.type = 'button';
    button.dataset.number = number;
    button.setAttribute('aria-label', 'Example picture ' + (number + 1));
    image.src = src;
    image.alt = '';
    button.append(image);
    list.append(button);
  });
};
watch('value', paint);
paint();
"""


def chip_list(**options: Any) -> gr.HTML:
    """Classes as chips, each with a cross; ``remove`` is triggered with the name of the one that was crossed out.

    The value is ``{"classes": [{"name", "colour", "count", "title"}, ...], "more": text}``.
    """
    return gr.HTML({"classes": [], "more": ""}, html_template='<div class="chips" role="list"></div>',
                   css_template=_CHIPS_CSS, js_on_load=_CHIPS_JS, **options)


def thumbnails(pictures: list[str], **options: Any) -> gr.HTML:
    """Small pictures (data URLs); when one is chosen its number is the value, and ``pick`` is triggered."""
    return gr.HTML(0, html_template='<div class="thumbs"></div>', css_template=_THUMBS_CSS, js_on_load=_THUMBS_JS,
                   pictures=pictures, **options)
