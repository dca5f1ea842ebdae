"""The picture on the page, on which boxes are drawn by mouse, pen or finger."""

import base64
import io
import math
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ovd.errors import UserError

MOST_BOXES = 50
_PLAIN = 400_000  # pixels up to which a picture is sent as PNG

_HTML = """
<div class="board" tabindex="-1">
  <div class="sheet"><img alt="" draggable="false"><div class="boxes"></div></div>
  <p class="empty">Drop a picture here</p>
  <button type="button" class="pen" aria-pressed="false">Draw a box</button>
</div>
"""

_CSS = """
.board { position: relative; display: flex; justify-content: center; align-items: center; min-height: 240px;
  border-radius: 10px; background: var(--background-fill-secondary); overflow: hidden; }
.board.over { outline: 3px dashed var(--color-accent); outline-offset: -3px; }
.sheet { position: relative; display: none; line-height: 0; width: 100%; cursor: crosshair; user-select: none;
  -webkit-user-select: none; -webkit-touch-callout: none; touch-action: manipulation; }
.board.full .sheet { display: block; }
.board.full .empty { display: none; }
.board.drawing .sheet { touch-action: none; outline: 3px solid var(--color-accent); outline-offset: -3px; }
.sheet img { display: block; width: 100%; height: auto; margin: 0; pointer-events: none; }
.boxes { position: absolute; inset: 0; }
.box { position: absolute; border: 2px dashed #fff; box-shadow: 0 0 0 2px #000, inset 0 0 0 1px #0008; }
.box b { position: absolute; top: -11px; right: -11px; width: 22px; height: 22px; border: 0; border-radius: 50%;
  background: #000; color: #fff; font: 700 14px/22px sans-serif; text-align: center; cursor: pointer; }
.box b::after { content: ""; position: absolute; inset: -9px; }
.empty { color: var(--body-text-color-subdued); margin: 0; }
.pen { display: none; position: absolute; right: 8px; bottom: 8px; padding: 8px 14px; border-radius: 99px; border: 0;
  background: #000c; color: #fff; font: inherit; font-size: 14px; line-height: 1.3; cursor: pointer; }
.pen[aria-pressed=true] { background: var(--color-accent); color: #fff; }
.board.full.touch .pen { display: block; }
"""

_JS = r"""
const part = name => element.querySelector(name);
let boxes = [], start = null, live = null, shown = null, drawing = false;
const limit = props.most;
const at = event => {
  const around = part('.sheet').getBoundingClientRect();
  const within = (value, size) => Math.min(1, Math.max(0, value / size));
  return [within(event.clientX - around.left, around.width), within(event.clientY - around.top, around.height)];
};
const spanned = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
const fit = () => {  // all of the picture is to be seen at once
  const { naturalWidth: width, naturalHeight: height } = part('img');
  part('.sheet').style.width = width && height ? `min(100%, ${props.tall * width / height}vh)` : '100%';
};
const tell = () => { props.value = boxes.map(box => box.slice()); trigger('change'); };
const paint = () => {
  const board = part('.board'), image = part('img');
  board.classList.toggle('full', Boolean(props.src));
  board.classList.toggle('drawing', drawing);
  board.classList.toggle('touch', matchMedia('(any-pointer: coarse)').matches);
  part('.pen').setAttribute('aria-pressed', drawing);
  part('.pen').textContent = drawing ? 'Drag over an example' : 'Draw a box';
  if (props.src && image.src !== props.src) image.src = props.src;
  image.onload = fit;
  fit();
  image.alt = props.alt || '';
  if (props.empty) part('.empty').textContent = props.empty;
  const layer = part('.boxes');
  layer.replaceChildren();
  (live ? [...boxes, live] : boxes).forEach((box, number) => {
    const shape = document.createElement('div');
    shape.className = 'box';
    const [x1, y1, x2, y2] = box.map(value => 100 * value);
    Object.assign(shape.style, { left: x1 + '%', top: y1 + '%', width: x2 - x1 + '%', height: y2 - y1 + '%' });
    if (box !== live) {
      const away = document.createElement('b');
      away.textContent = '×';
      away.title = 'Remove this box';
      away.dataset.number = number;
      shape.append(away);
    }
    layer.append(shape);
  });
};
const update = () => {
  if (props.turn !== shown) {
    const known = shown !== null;
    shown = props.turn; boxes = []; live = start = null; drawing = false;
    if ((props.value || []).length) props.value = [];
    if (known && element.getBoundingClientRect().bottom < 80) element.scrollIntoView({ block: 'center' });
  }
  paint();
};
element.addEventListener('pointerdown', event => {
  if (event.target.dataset.number !== undefined) {
    boxes.splice(Number(event.target.dataset.number), 1);
    event.preventDefault(); paint(); tell();
    return;
  }
  if (!event.target.closest('.sheet') || event.button !== 0 || boxes.length >= limit) return;
  if (event.pointerType === 'touch' && !drawing) return;
  event.preventDefault();
  element.setPointerCapture(event.pointerId);
  start = at(event);
});
element.addEventListener('pointermove', event => {
  if (start) { live = spanned(start, at(event)); paint(); }
});
const done = event => {
  if (!start) return;
  const box = spanned(start, at(event)), around = part('.sheet').getBoundingClientRect();
  start = live = null;
  if (event.type === 'pointerup' && (box[2] - box[0]) * around.width >= 6 && (box[3] - box[1]) * around.height >= 6) {
    boxes.push(box);
    drawing = false;
    tell();
  }
  paint();
};
element.addEventListener('pointerup', done);
element.addEventListener('pointercancel', done);
element.addEventListener('keydown', event => {
  if (event.key === 'Escape' && (start || boxes.length)) { start = live = null; boxes.pop(); paint(); tell(); }
});
element.addEventListener('click', event => {
  if (event.target.closest('.pen')) { drawing = !drawing; paint(); }
});
const files = () => document.querySelector(
  `#${props.field} input[type=file], input[type=file]:has(+ #${props.field})`);
const give = given => {
  const field = files();
  const picture = [...given].find(file => file.type.startsWith('image/')) || given[0];
  if (!field || !picture) return;
  const chosen = new DataTransfer();
  chosen.items.add(picture);
  field.files = chosen.files;
  field.dispatchEvent(new Event('change', { bubbles: true }));
};
element.addEventListener('dragover', event => { event.preventDefault(); part('.board').classList.add('over'); });
element.addEventListener('dragleave', () => part('.board').classList.remove('over'));
element.addEventListener('drop', event => {
  event.preventDefault();
  part('.board').classList.remove('over');
  give(event.dataTransfer.files);
});
document.addEventListener('change', event => {  // before it is sent
  const field = files();
  if (!field || event.target !== field || !field.files.length || field.files[0].size <= props.bytes) return;
  event.stopPropagation();
  trigger('refuse', { name: field.files[0].name, bytes: field.files[0].size });
  field.value = '';
}, true);
const chooser = setInterval(() => {  // the button may come later than the picture
  if (files()) { files().accept = 'image/*'; clearInterval(chooser); }
}, 200);
if (props.paste) document.addEventListener('paste', event => {
  if (element.offsetParent && event.clipboardData.files.length) give(event.clipboardData.files);
});
watch(Object.keys({ src: 0, turn: 0, alt: 0 }), update);  // Gradio takes names in quotes for events
update();
"""


def board(**options: Any) -> gr.HTML:
    """A picture; its value is the list of boxes drawn on it, each x1, y1, x2, y2 as fractions of width and height.

    Args:
        options: Of ``gr.HTML``, and these properties, which ``gr.update`` changes: ``src``, the picture, a data URL;
            ``turn``, boxes are cleared when it changes; ``alt``, what the picture shows, for those who do not see it;
            ``field``, the ``elem_id`` of the upload button that files dropped here go to; ``paste``, whether pasted
            ones do; ``empty``, what stands in a picture's place; ``bytes``, the most that a file has: ``refuse`` is
            triggered with the name and size of a larger one, which is not sent; ``tall``, the most that it takes of
            the window's height, in per cent.
    """
    properties = {"src": "", "turn": 0, "alt": "", "field": "", "empty": "", "paste": False, "bytes": 0,
                  "tall": 76, "most": MOST_BOXES}
    return gr.HTML([], html_template=_HTML, css_template=_CSS, js_on_load=_JS, **{**properties, **options})


def thumbnail(pixels: np.ndarray, side: int = 120) -> str:
    """A small copy as a data URL."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return data_url(image)


def drawn_boxes(value: Any) -> list[tuple[float, float, float, float]]:
    """A board's value, checked.

    Raises:
        UserError: Not a list of boxes.
    """
    if value in (None, "", []):
        return []
    if not isinstance(value, list) or len(value) > MOST_BOXES:
        raise UserError("The boxes are not readable.")
    boxes = []
    for box in value:
        if not isinstance(box, list) or len(box) != 4 \
                or not all(isinstance(side, int | float) and math.isfinite(side) for side in box):
            raise UserError("The boxes are not readable.")
        boxes.append(tuple(map(float, box)))
    return boxes


def data_url(pixels: np.ndarray | Image.Image) -> str:
    """A picture as a data URL: small ones exactly, large ones as JPEG."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    small = image.width * image.height <= _PLAIN
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
