"""Pictures of detections beside the ground truth.

Shapes: N instances; images are HWC uint8 RGB; boxes are x1, y1, x2, y2 in pixels of the image.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_instances(image: np.ndarray, boxes_N4: np.ndarray, names: Sequence[str], labels: Sequence[int],
                   masks: np.ndarray | None = None, scores: Sequence[float] | None = None) -> np.ndarray:
    """Thin boxes, translucent masks, and a readable tag at each box: the class, and the score where there is one.

    Args:
        image: drawn on a copy of it.
        names: N class names.
        labels: N labels, which choose the colours (the same for a class in every picture).
        masks: ``[N, H, W]`` bool.

    Returns:
        an image of the same size.
    """
    height, width = image.shape[:2]
    canvas = image.astype(np.float32)
    order = np.argsort([-_area(box) for box in boxes_N4], kind="stable")  # small ones on top
    if masks is not None:
        for index in order:
            mask = np.asarray(masks[index], dtype=bool)
            canvas[mask] = 0.6 * canvas[mask] + 0.4 * np.array(class_colour(labels[index]), dtype=np.float32)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    size = max(10, round(min(height, width) / 28))
    font = ImageFont.load_default(size)
    for index in order:
        x1, y1, x2, y2 = (float(v) for v in boxes_N4[index])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=class_colour(labels[index]),
                       width=max(1, round(min(height, width) / 300)))
    for index in order:
        tag = names[index] if scores is None else f"{names[index]} {100 * scores[index]:.0f}"
        _draw_tag(draw, tag, boxes_N4[index], class_colour(labels[index]), font, width, height)
    return np.asarray(picture)


def side_by_side(left: np.ndarray, right: np.ndarray,
                 titles: tuple[str, str] = ("ground truth", "detections")) -> np.ndarray:
    """Two pictures of one size with titles, a small gap between them."""
    height, width = left.shape[:2]
    gap, bar = 6, max(18, height // 20)
    page = Image.new("RGB", (2 * width + gap, height + bar), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(round(bar * 0.65))
    for offset, picture, title in ((0, left, titles[0]), (width + gap, right, titles[1])):
        page.paste(Image.fromarray(picture), (offset, bar))
        draw.text((offset + 2, bar / 2), title, fill=(40, 40, 40), font=font, anchor="lm")
    return np.asarray(page)


def class_colour(label: int) -> tuple[int, int, int]:
    """A vivid RGB colour, far from those of neighbouring labels."""
    hue = (int(label) * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_tag(draw: ImageDraw.ImageDraw, text: str, box: np.ndarray, colour: tuple[int, int, int],
              font: ImageFont.FreeTypeFont, width: int, height: int) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    tag_width, tag_height = right - left + 4, bottom - top + 4
    x = min(max(0.0, float(box[0])), max(0, width - tag_width))
    y = float(box[1]) - tag_height  # above the box; inside it at the top of the image
    y = float(box[1]) if y < 0 else y
    y = min(max(0.0, y), max(0, height - tag_height))
    draw.rectangle((x, y, x + tag_width, y + tag_height), fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    draw.text((x + 2 - left, y + 2 - top), text, fill="white" if dark else "black", font=font)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
