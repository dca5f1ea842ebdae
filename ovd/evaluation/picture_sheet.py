"""A sheet of pictures of any size with captions, a legend of colours, and in red what is wrong with what it shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, MARGIN, LINE = 14, 22, 20  # pixels
PAPER, INK, FAINT, ALARM = (250, 250, 248), (32, 32, 36), (120, 120, 126), (190, 20, 20)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet.

    Attributes:
        picture: HWC uint8 RGB.
        caption: the line below it.
        notes: fainter lines below that.
        wrong: the caption is a warning.
    """

    picture: np.ndarray
    caption: str
    notes: tuple[str, ...] = ()
    wrong: bool = False


def picture_sheet(title: str, subtitle: str, panels: Sequence[Panel], columns: int = 3,
                  legend: Sequence[tuple[Colour, str]] = (), warnings: Sequence[str] = ()) -> Image.Image:
    """The sheet, RGB; panels in reading order, in cells as wide as the widest picture.

    Args:
        columns: at most so many.
        legend: colours and what they stand for, in lines below the subtitle.
        warnings: written in red at the top, in as many lines as they need.
    """
    cell = max((panel.picture.shape[1] for panel in panels), default=0)
    columns = max(1, min(columns, len(panels)))
    width = max(2 * MARGIN + columns * (cell + GAP) - GAP, 620)
    large, plain, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    told = [line for text in warnings for line in _wrapped(measure, text, plain, width - 2 * MARGIN)]
    keys = _legend_lines(measure, legend, small, width - 2 * MARGIN)
    top = MARGIN + 2 * LINE + GAP + LINE * (len(told) + len(keys)) + (GAP // 2 if told else 0)
    rows = [panels[first:first + columns] for first in range(0, len(panels), columns)]
    heights = [max(panel.picture.shape[0] + LINE * (1 + len(panel.notes)) for panel in row) + GAP for row in rows]
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (MARGIN, MARGIN), title, large, INK, width - 2 * MARGIN)
    write_line(draw, (MARGIN, MARGIN + 30), subtitle, small, FAINT, width - 2 * MARGIN)
    y = MARGIN + 2 * LINE + GAP
    for line in told:
        write_line(draw, (MARGIN, y), line, plain, ALARM, width - 2 * MARGIN)
        y += LINE
    y += GAP // 2 if told else 0
    for line in keys:
        for x, colour, text in line:
            draw.rectangle((MARGIN + x, y + 1, MARGIN + x + 11, y + 12), fill=colour)
            draw.text((MARGIN + x + 17, y), text, fill=INK, font=small)
        y += LINE
    for row, height in zip(rows, heights):
        for column, panel in enumerate(row):
            x = MARGIN + column * (cell + GAP)
            sheet.paste(Image.fromarray(panel.picture), (x, y))
            below = y + panel.picture.shape[0] + 3
            write_line(draw, (x, below), panel.caption, plain, ALARM if panel.wrong else INK, cell)
            for number, note in enumerate(panel.notes, 1):
                write_line(draw, (x, below + number * LINE), note, small, FAINT, cell)
        y += height
    return sheet


def write_line(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: ImageFont.FreeTypeFont,
               colour: Colour, width: int) -> None:
    """One line, cut with dots where it is wider than ``width`` pixels."""
    if draw.textlength(text, font=font) > width:
        while text and draw.textlength(text + "...", font=font) > width:
            text = text[:-1]
        text += "..."
    draw.text(place, text, fill=colour, font=font)


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and draw.textlength(f"{lines[-1]} {word}", font=font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _legend_lines(draw: ImageDraw.ImageDraw, legend: Iterable[tuple[Colour, str]], font: ImageFont.FreeTypeFont,
                  width: int) -> list[list[tuple[int, Colour, str]]]:
    """Lines of the left edge, the colour and the text of each key."""
    lines: list[list[tuple[int, Colour, str]]] = []
    x = 0
    for colour, text in legend:
        wide = round(draw.textlength(text, font=font)) + 17 + 24
        if not lines or x + wide > width:
            lines.append([])
            x = 0
        lines[-1].append((x, colour, text))
        x += wide
    return lines
