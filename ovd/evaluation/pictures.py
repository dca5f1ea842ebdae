"""Pictures of detections beside the ground truth.

Shapes: N instances; images are HWC uint8 RGB; boxes are x1, y1, x2, y2 in pixels of the image.
"""

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from mmengine.structures import InstanceData

# Okabe and Ito's colours, which colour-blind people tell apart, and a grey for what does not matter
BLUE, VERMILION, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)
PURPLE, YELLOW, GREY = (204, 121, 167), (240, 228, 66), (165, 165, 165)


def draw_instances(image: np.ndarray, boxes_N4: np.ndarray, names: Sequence[str], labels: Sequence[int],
                   masks: np.ndarray | None = None, scores: Sequence[float] | None = None, scale: int = 1,
                   colours: Sequence[tuple[int, int, int]] | None = None, opacity: float = 0.4,
                   line_width: int | None = None) -> np.ndarray:
    """Thin boxes, translucent masks, and a readable tag at each box: the class, and the score where there is one.

    Args:
        image: drawn on a copy of it.
        names: N class names; an empty one is drawn without a tag.
        labels: N labels, which choose the colours (the same for a class in every picture).
        masks: ``[N, H, W]`` bool.
        scale: the picture is so many times larger than the image; :func:`readable_scale` suggests one.
        colours: N RGB colours, instead of those of the classes.
        opacity: of the masks, 0 to 1.
        line_width: of the boxes, in pixels of the picture; by default thin.

    Returns:
        an image of ``scale`` times the size.
    """
    if scale > 1:
        height, width = image.shape[:2]
        image = np.asarray(Image.fromarray(image).resize((scale * width, scale * height), Image.Resampling.BICUBIC))
        boxes_N4 = scale * np.asarray(boxes_N4)
        masks = None if masks is None else np.repeat(np.repeat(masks, scale, axis=1), scale, axis=2)
    if colours is None:
        colours = [class_colour(label) for label in labels]
    height, width = image.shape[:2]
    canvas = image.astype(np.float32)
    order = np.argsort([-_area(box) for box in boxes_N4], kind="stable")  # small ones on top
    if masks is not None:
        for index in order:
            mask = np.asarray(masks[index], dtype=bool)
            canvas[mask] = (1 - opacity) * canvas[mask] + opacity * np.array(colours[index], dtype=np.float32)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    size = max(10, round(min(height, width) / 28))
    font = ImageFont.load_default(size)
    for index in order:
        x1, y1, x2, y2 = (float(v) for v in boxes_N4[index])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colours[index],
                       width=line_width or max(1, round(min(height, width) / 300)))
    taken: list[tuple[float, float, float, float]] = []
    for index in (index for index in order if names[index]):
        tag = names[index] if scores is None else f"{names[index]} {100 * scores[index]:.0f}"
        taken.append(_draw_tag(draw, tag, boxes_N4[index], colours[index], font, (width, height), taken))
    return np.asarray(picture)


def fitted(image: np.ndarray, boxes_N4: np.ndarray, side: int,
           masks: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The image with its longer side made ``side`` pixels, and boxes and masks ``[N, H, W]`` in its new pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    boxes_N4 = np.asarray(boxes_N4, np.float64).reshape(-1, 4) * scale
    if masks is not None:
        masks = np.array([np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in masks],
                         bool).reshape(-1, size[1], size[0])
    return resized, boxes_N4, masks


def readable_scale(image: np.ndarray) -> int:
    """How many times larger an image should be drawn for its tags to be readable: 1 from 400 pixels on."""
    return max(1, round(400 / min(image.shape[:2])))


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


def detections_beside_truth(image: np.ndarray, names: Sequence[str], found: "InstanceData",
                            truth: "InstanceData | None" = None, min_score: float = 0.3,
                            max_boxes: int = 40) -> np.ndarray:
    """A picture of the best detections, with one of the ground truth at its left where that is known.

    Args:
        names: of all classes.
        found: ``bboxes`` (original pixels), ``scores``, ``labels`` and perhaps ``masks``.
        truth: ``bboxes``, ``labels`` and perhaps ``masks``.
        min_score: detections below it are not drawn.
        max_boxes: only so many of the best are drawn.
    """
    scale = readable_scale(image)
    found = found[found.scores >= min_score]
    found = found[found.scores.argsort(descending=True)[:max_boxes]].cpu()
    shown = draw_instances(image, found.bboxes.numpy(), [names[i] for i in found.labels], found.labels.numpy(),
                           found.masks.numpy() if "masks" in found else None, found.scores.numpy(), scale)
    if truth is None:
        return shown
    truth = truth.cpu()
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes).numpy()
    masks = truth.masks.to_ndarray() if "masks" in truth else None
    if masks is not None and masks.shape[1:] != image.shape[:2]:
        masks = None  # of the image as the network sees it
    left = draw_instances(image, boxes, [names[i] for i in truth.labels], truth.labels.numpy(), masks, scale=scale)
    return side_by_side(left, shown)


def class_colour(label: int) -> tuple[int, int, int]:
    """A vivid RGB colour, far from those of neighbouring labels."""
    hue = (int(label) * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_tag(draw: ImageDraw.ImageDraw, text: str, box: np.ndarray, colour: tuple[int, int, int],
              font: ImageFont.FreeTypeFont, size: tuple[int, int],
              taken: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """Draw a tag above the box, inside it or below it: the first place that no other tag has; returns where."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, float(box[0])), max(0, size[0] - width))
    places = []
    for y in (box[1] - height, box[1], box[3] - height, box[3]):
        if 0 <= y <= size[1] - height:
            places.append((x, float(y), x + width, float(y) + height))
    place = next((p for p in places if not any(_overlap(p, other) for other in taken)),
                 places[0] if places else (x, 0.0, x + width, float(height)))
    draw.rectangle(place, fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    draw.text((place[0] + 2 - left, place[1] + 2 - top), text, fill="white" if dark else "black", font=font)
    return place


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
