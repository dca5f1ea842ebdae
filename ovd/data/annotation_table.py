"""Annotation files of a gigabyte, without an object per annotation: their text, and columns that say what is where.

To write some of the records under new category ids, their text is copied as the file has it, but for the digits of
those ids. Fields that nothing here knows, masks and the way numbers are written are therefore kept, to the byte.

A file is decoded a piece at a time, with types as strict as :func:`~ovd.data.annotations.load_annotations`; what cannot
be copied with certainty (keys with escapes, lists of objects, unusual blanks, annotations to skip for their NaN) goes
through ``load_annotations`` and is written anew. So does every mistake, which is then said in the same words.
"""

import mmap
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from ovd.data import annotation_checks
from ovd.data.annotation_columns import Columns
from ovd.data.annotations import (
    Annotation,
    Category,
    Image,
    decode_lists,
    encoded_chunks,
    load_annotations,
    no_garbage_collection,
    write_lists,
)
from ovd.errors import UserError
from ovd.stores.atomic import atomic_write

_PIECE = 1 << 18  # bytes that are decoded at a time: small enough for the processor's cache
_STRETCH = 1 << 25  # bytes that a process takes at a time, where several share a file
_BATCH = 2048  # records that are written at a time
_OPENING = re.compile(rb'"annotations"\s*:\s*\[\s*')
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_CLOSING = re.compile(rb"\}\s*\]\s*[,}]")
_KEY = b'"category_id"'
_KEY_BEGINS, _KEY_ENDS = np.frombuffer(_KEY[:8] + _KEY[-8:], np.uint64)
_UNDERSCORE = _KEY.index(b"_")
_WRITTEN_ANEW = re.compile(rb'\{"id":-?\d+,"image_id":-?\d+,"category_id":(-?\d+)')


@dataclass(frozen=True)
class PlacedColumns(Columns):
    """Fields of N annotations, and where these are in a text.

    Attributes:
        row: ``[N]`` int64, position of the annotation in its file: those of neighbours differ by 1.
        start, end: ``[N]`` int64, byte of a record's brace, and of the next one's; the last one ends after its brace.
        number, number_end: ``[N]`` int64, first byte of the category id in the text, and the one after it.
    """

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    number: np.ndarray
    number_end: np.ndarray


@dataclass
class AnnotationTable:
    """The records of an annotation file, in its order.

    Attributes:
        images, categories: records.
        columns: numbers of the annotations; ``category_id`` is what is written, whatever number the text has.
        text: where the places in ``columns`` are.
        skipped: which annotations were left out on request, and why.
    """

    images: list[Image]
    categories: list[Category]
    columns: PlacedColumns
    text: bytes | mmap.mmap
    skipped: list[str] = field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """Write json with the keys images, annotations, categories; whole or not at all."""
        with atomic_write(path) as temporary:
            self.write(temporary)

    def write(self, path: str | Path) -> None:
        """As :meth:`save`, straight to ``path``."""
        write_lists(path, {"images": encoded_chunks(self.images), "annotations": self._copied_chunks(),
                           "categories": encoded_chunks(self.categories)})  # fmt: skip

    def _copied_chunks(self) -> Iterator[bytes]:
        numbers = {number: b"%d" % number for number in np.unique(self.columns.category_id).tolist()}
        text = memoryview(self.text)
        for first in range(0, len(self.columns), _BATCH):
            columns = self.columns[slice(first, first + _BATCH)]
            # A record's number is followed by what is between it and the next record's number. Where the next record is
            # not written, that is the rest of this record, and the beginning of another one.
            follows = np.zeros(len(columns) + 1, bool)
            follows[1:-1] = np.diff(columns.row) == 1
            begin = columns.start.copy()
            begin[follows[:-1]] = columns.number_end[:-1][follows[1:-1]]
            parts = [b""] * (3 * len(columns) + 1)
            parts[1::3] = [text[a:b] for a, b in zip(begin.tolist(), columns.number.tolist())]
            parts[2::3] = map(numbers.__getitem__, columns.category_id.tolist())
            alone = np.flatnonzero(~follows[1:])
            for i, a, b in zip(alone.tolist(), columns.number_end[alone].tolist(), columns.end[alone].tolist()):
                parts[3 * i + 3] = text[a:b]
            parts[-1] = bytes(parts[-1]).rstrip(b", \t\r\n")
            yield b"".join(parts)


def read_table(path: str | Path, on_error: Literal["stop", "skip"] = "stop", processes: int = 1) -> AnnotationTable:
    """Read a COCO or LVIS annotation file, with all checks of :func:`~ovd.data.annotations.load_annotations`.

    Args:
        on_error: as there.
        processes: that share the work on a large file; the result does not depend on it. More than one need a main
            module that may be imported.

    Raises:
        UserError: as there.
    """
    path = Path(path)
    with no_garbage_collection():
        try:
            content = _mapped(path)
            images, categories, columns = _copied(path, content, processes)
        except (_Unusual, msgspec.DecodeError, UnicodeDecodeError, ValueError, OSError):
            return _written_anew(path, on_error)
        keep, lines = annotation_checks.check(path, images, categories, columns, on_error)
    return AnnotationTable(images, categories, columns[keep] if lines else columns, content, lines)


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Unusual(Exception):
    """A file that is right perhaps, but not written in one of the usual ways."""


class _Record(Annotation, gc=False, forbid_unknown_fields=False):
    """An annotation whose other fields are left in the text."""


def _copied(path: Path, content: mmap.mmap, processes: int) -> tuple[list[Image], list[Category], PlacedColumns]:
    """The records of ``content``, to be copied from it.

    That the list of annotations is where it was taken to be follows from two things: it and what is around it are both
    valid, each by itself; and in what is around it, the key stands at the top level with an empty list.
    """
    opening = _OPENING.search(content)
    if opening is None:
        raise _Unusual
    parts = list(_shared_out(path, content, opening.end(), processes)) if processes > 1 else []
    start, closed = (int(parts[-1].end[-1]) if parts else opening.end()), False
    while not closed:
        piece, closed = _next_piece(path, content, start)
        parts.append(piece)
        start = int(piece.end[-1])
    around = content[: opening.end()] + content[content.find(b"]", start) :]
    images, inside, categories = decode_lists(around)
    if inside or around.count(b'"annotations"') > 1:
        raise _Unusual
    columns = PlacedColumns.join(parts)
    columns.row[:] = np.arange(len(columns))
    return images, categories, columns


def _shared_out(path: Path, content: mmap.mmap, start: int, processes: int) -> Iterator[PlacedColumns]:
    """Large stretches of records, one after another from ``start`` on, as far as their ends were guessed right.

    The other processes begin at the end of the file and this one at the beginning, until they meet.
    """
    guesses = (_BETWEEN.search(content, place) for place in range(start + _STRETCH, len(content), _STRETCH))
    places = [start, *(between.end() - 1 for between in guesses if between)]
    stretches = list(pairwise(places))
    with ProcessPoolExecutor(processes - 1, mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_stretch, path, *stretch) for stretch in reversed(stretches)][::-1]
        try:
            for task, stretch in zip(tasks, stretches):
                yield _stretch(path, *stretch) if task.cancel() else task.result()
        except (_Unusual, msgspec.DecodeError, UserError, BrokenProcessPool):
            return  # the list is over, or what looked like the end of a record was none: this process goes on
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stretch(path: Path, start: int, end: int) -> PlacedColumns:
    """The records from ``start`` to ``end``; where the list ends before, or no record begins at ``end``, it fails."""
    content, parts = _mapped(path), []
    with no_garbage_collection():
        while start < end:
            between = _BETWEEN.search(content, start + _PIECE, end + 1)
            parts.append(_piece(path, content, start, between.end() - 1 if between else end))
            start = int(parts[-1].end[-1])
    return PlacedColumns.join(parts)


def _next_piece(path: Path, content: mmap.mmap, start: int) -> tuple[PlacedColumns, bool]:
    """Some records from ``start`` on, and whether the last one is among them."""
    between = _BETWEEN.search(content, start + _PIECE)
    if between:
        try:
            return _piece(path, content, start, between.end() - 1), False
        except msgspec.DecodeError:
            pass  # the list may be over
    closing = _CLOSING.search(content, start)
    if closing is None:
        raise _Unusual
    return _piece(path, content, start, closing.start() + 1), True


def _piece(path: Path, content: mmap.mmap, start: int, end: int) -> PlacedColumns:
    """The records from ``start`` to ``end``, where another one starts, or the last one has ended.

    A place that looks like the end of a record and is none, in a text or a list of objects, leaves brackets or quotes
    open: such a piece does not decode.
    """
    records = _DECODER.decode(_in_brackets(content, start, content.rfind(b"}", start, end) + 1))
    return _placed(Columns.of(path, records), content, start, end)


_DECODER = msgspec.json.Decoder(list[_Record])


def _in_brackets(content: mmap.mmap, start: int, end: int) -> bytes:
    return b"".join((b"[", memoryview(content)[start:end], b"]"))


def _placed(columns: Columns, content: mmap.mmap, start: int, end: int) -> PlacedColumns:
    """Where the records from ``start`` to ``end`` are, and their category ids.

    A brace opens a record or a value. Every record has the key once at its top level: as often as there are records,
    and one in each, it is nowhere else. Decimal numbers can be written in one way only.
    """
    if content.find(b"\\", start, end) >= 0:
        raise _Unusual
    text = np.frombuffer(content, np.uint8, end + 1 - start, start)  # and a byte more, for what follows a key

    braces = np.flatnonzero(text[:-1] == ord("{"))
    before = text[braces - 1]
    before = np.where(before == ord(" "), text[braces - 2], before)
    before[0] = ord(",")
    is_record = before == ord(",")
    starts = braces[is_record]
    keys = np.flatnonzero(text == ord("_"))
    keys = keys[(keys >= _UNDERSCORE) & (text[keys - 1] == ord("y"))] - _UNDERSCORE
    words = np.ndarray(max(0, len(text) - 7), np.uint64, text, strides=(1,))  # the eight bytes from each byte on
    keys = keys[(words[keys] == _KEY_BEGINS) & (words[keys + len(_KEY) - 8] == _KEY_ENDS)]
    expected = len(columns)
    if len(starts) != expected or (before[~is_record] != ord(":")).any() or len(keys) != expected:
        raise _Unusual
    ends = np.append(starts[1:], end - start)

    number = keys + len(_KEY) + 1
    number += text[number] == ord(" ")
    number_end = number + np.searchsorted(_POWERS, columns.category_id, side="right") + 1
    if not ((starts < keys) & (number_end < ends)).all():
        raise _Unusual
    first, after = text[number], text[number_end]
    is_number = (first >= ord("0")) & (first <= ord("9")) & ((after == ord(",")) | (after == ord("}")))
    if not is_number.all() or (text[keys + len(_KEY)] != ord(":")).any():
        raise _Unusual
    return PlacedColumns(**vars(columns), row=np.zeros_like(number), start=starts + start, end=ends + start,
                         number=number + start, number_end=number_end + start)  # fmt: skip


_POWERS = 10 ** np.arange(1, 19)


def _written_anew(path: Path, on_error: str) -> AnnotationTable:
    loaded = load_annotations(path, on_error=on_error)
    encoder = msgspec.json.Encoder()
    records = [encoder.encode(record) for record in loaded.annotations]
    numbers = [_WRITTEN_ANEW.match(record).span(1) for record in records]
    lengths = np.array([len(record) + 1 for record in records], np.int64)  # with a comma
    ends = np.cumsum(lengths)
    starts = ends - lengths
    number, number_end = starts + np.array(numbers, np.int64).reshape(-1, 2).T
    places = {"row": np.arange(len(records)), "start": starts, "end": ends, "number": number, "number_end": number_end}
    columns = PlacedColumns(**vars(Columns.of(path, loaded.annotations)), **places)
    return AnnotationTable(loaded.images, loaded.categories, columns, b"".join(r + b"," for r in records),
                           loaded.skipped)  # fmt: skip
