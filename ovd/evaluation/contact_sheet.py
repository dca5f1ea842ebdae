"""A contact sheet: boxes of many images with what surrounds them, side by side, each with a caption.

Boxes are x1, y1, x2, y2 in pixels of the image.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ovd.evaluation.picture_sheet import FAINT, GAP, INK, LINE, MARGIN, PAPER, write_line

_CONTEXT = 2.0  # side of what is shown, in longer sides of the box
_LEAST = 48  # pixels of the image that are shown at least
_FRAME = (255, 196, 0)


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet: the RGB image, the box, a caption and a fainter line below it."""

    image: Image.Image
    box: tuple[float, float, float, float]
    caption: str
    note: str = ""


def contact_sheet(title: str, subtitle: str, tiles: Iterable[Tile], columns: int = 5, side: int = 188) -> Image.Image:
    """The sheet, RGB; tiles in reading order, each ``side`` pixels wide and high above its two lines of text.

    One image at a time is in memory where ``tiles`` makes them as it goes.
    """
    pictures = [(tile_picture(tile, side), tile.caption, tile.note) for tile in tiles]
    columns = max(1, min(columns, len(pictures)))
    lines = -(-len(pictures) // columns)
    width = max(2 * MARGIN + columns * (side + GAP) - GAP, 2 * MARGIN + 3 * side)
    top = MARGIN + 2 * LINE + GAP
    step = side + 2 * LINE + GAP
    sheet = Image.new("RGB", (width, top + lines * step + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, plain, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    write_line(draw, (MARGIN, MARGIN), title, large, INK, width - 2 * MARGIN)
    write_line(draw, (MARGIN, MARGIN + 30), subtitle, small, FAINT, width - 2 * MARGIN)
    for number, (picture, caption, note) in enumerate(pictures):
        x = MARGIN + number % columns * (side + GAP)
        y = top + number // columns * step
        sheet.paste(picture, (x, y))
        write_line(draw, (x, y + side + 4), caption, plain, INK, side)
        write_line(draw, (x, y + side + 4 + LINE), note, small, FAINT, side)
    return sheet


def file_stem(text: str, otherwise: str) -> str:
    """A text as the name of a sheet's file: its letters and digits, of whatever alphabet, joined by hyphens."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")[:60].rstrip("-") or otherwise


def tile_picture(tile: Tile, side: int) -> Image.Image:
    """The square about the box, which is framed, ``side`` pixels wide; it stays within the image where that allows."""
    from ovd.clip.crops import CropRecipe, crop_windows  # not above: it brings torch along

    x1, y1, x2, y2 = tile.box
    longer = max(x2 - x1, y2 - y1)
    recipe = CropRecipe("square", (max(_CONTEXT, _LEAST / longer),), "nearest")
    left, top, right, _ = crop_windows([tile.box], *tile.image.size, recipe)[0, 0].tolist()
    scale = side / (right - left)
    shown = tile.image.crop((left, top, right, top + right - left)).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shown)
    frame = [round(scale * value) for value in (x1 - left, y1 - top, x2 - left, y2 - top)]
    frame = [min(max(value, 1), side - 2) for value in frame]
    for grow, colour in ((1, (0, 0, 0)), (0, _FRAME), (-1, _FRAME)):
        outline = (frame[0] - grow, frame[1] - grow, frame[2] + grow, frame[3] + grow)
        if outline[2] >= outline[0] and outline[3] >= outline[1]:
            draw.rectangle(outline, outline=colour)
    return shown
