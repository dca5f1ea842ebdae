"""Files that the page makes for its visitor: they go to the browser, and never lie on the server."""

import base64
import io
import json
import re
import time
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ovd.apis import Detections
from ovd.apis.detections import encode_masks
from ovd.web.uploads import Picture

_JS = r"""
watch('value', () => {
  const file = props.value;
  if (!file || !file.data) return;
  const link = document.createElement('a');
  link.href = file.data;
  link.download = file.name;
  link.click();
});
"""


def download(**options: Any) -> gr.HTML:
    """Saves what its value is set to: ``{"name", "data" (a data URL), "made" (so that the same is saved twice)}``."""
    return gr.HTML({}, html_template="<span></span>", js_on_load=_JS, **options)


def json_file(found: Detections, picture: Picture) -> dict[str, Any]:
    """Detections as json, in pixels of the picture's file."""
    content = {**in_file_pixels(found, picture).to_dict(), "image": picture.name}
    text = json.dumps(content, ensure_ascii=False) + "\n"
    return _file(f"{_stem(picture)}.json", "application/json", text.encode())


def png_file(found: Detections, picture: Picture) -> dict[str, Any]:
    """The picture with boxes and masks."""
    buffer = io.BytesIO()
    found.plot().save(buffer, "PNG")
    return _file(f"{_stem(picture)}-found.png", "image/png", buffer.getvalue())


def in_file_pixels(found: Detections, picture: Picture) -> Detections:
    """Detections of the working copy in the pixels of the file that it was made of."""
    height, width = picture.size
    if found.image_size == picture.size:
        return found
    across, down = width / found.image_size[1], height / found.image_size[0]
    rles = None
    if found.rles is not None:
        rles = tuple(encode_masks(_enlarged(found[[index]].masks()[0], width, height)[None])[0]
                     for index in range(len(found)))
    return replace(found, boxes=found.boxes * [across, down, across, down], rles=rles, image_size=(height, width))


def _enlarged(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _stem(picture: Picture) -> str:
    return re.sub(r"[^\w.-]+", "-", picture.name.rsplit(".", 1)[0]).strip("-.") or "picture"


def _file(name: str, kind: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "data": f"data:{kind};base64,{base64.b64encode(content).decode()}", "made": time.time()}
