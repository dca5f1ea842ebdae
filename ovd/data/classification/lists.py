"""A csv list of labelled pictures: ``path,class``, perhaps with a box ``,x1,y1,x2,y2`` in pixels."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovd.data.classification.pictures import Box, Picture
from ovd.errors import UserError

HEADS = ({"path", "file", "filename", "file_name", "image"}, {"class", "label", "name", "category"})
CORNERS = ("x1", "y1", "x2", "y2")


def read_csv(path: str | os.PathLike, image_root: str | os.PathLike | None = None) -> list[Picture]:
    """The pictures of a list, in its order.

    The first line may name the columns (``path,class[,x1,y1,x2,y2]``, or mini-ImageNet's ``filename,label``). A line's
    box may be empty: all of the image.

    Args:
        image_root: The folder that the paths are in (default: that of the list).

    Raises:
        UserError: The list cannot be read or is empty; a line that has other columns or a box that is none.
    """
    path = Path(path)
    root = path.parent if image_root is None else Path(image_root)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read as a csv list ({reason})") from error
    if lines and all(word.strip().lower() in heads for word, heads in zip(lines[0][1], HEADS)):
        lines = lines[1:]
    if not lines:
        raise UserError(f"{path}: lists no pictures; a line is path,class or path,class,x1,y1,x2,y2")
    return [_picture(f"{path}: line {number}", [word.strip() for word in line], root) for number, line in lines]


def _picture(where: str, words: Sequence[str], root: Path) -> Picture:
    if len(words) not in (2, 6) or not words[0] or not words[1]:
        raise UserError(f"{where}: {','.join(words)[:80]!r} is not path,class or path,class,x1,y1,x2,y2")
    return Picture(str(root / words[0]), words[1], _box(where, words[2:]))


def _box(where: str, words: Sequence[str]) -> Box | None:
    if not any(words):
        return None
    try:
        x1, y1, x2, y2 = map(float, words)
    except ValueError:
        raise UserError(f"{where}: {','.join(words)} is no box; four numbers {','.join(CORNERS)} are one") from None
    if not np.isfinite([x1, y1, x2, y2]).all() or x2 <= x1 or y2 <= y1:
        raise UserError(f"{where}: the box {x1:g},{y1:g},{x2:g},{y2:g} is inverted, without area or not finite")
    return x1, y1, x2, y2
