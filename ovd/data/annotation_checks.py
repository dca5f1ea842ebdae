"""What may be wrong with an annotation file, said in one line that names the file, the record and the remedy."""

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovd.errors import UserError
from ovd.vocabulary.classes import canonical

if TYPE_CHECKING:
    import msgspec

    from ovd.data.annotation_columns import Columns

# Objects of zero height in the official instances_train2017.json (cocodataset/cocoapi#355): (annotation, image) ids.
_KNOWN_ZERO_AREA = frozenset({(918, 200365), (2206849, 550395)})

_MASK_BYTES = np.frombuffer(b"[{n", np.uint8)  # a list, an object or null: the rest is read when it is used

_SKIP_HINT = "correct the file, or leave such annotations out with --on-error skip"


def check(path: Path, images: list, categories: list, columns: "Columns",
          on_error: str) -> tuple[np.ndarray, list[str]]:
    """Check ids, references and boxes of decoded records; a million annotations take a quarter of a second.

    Returns:
        ``[N]`` bool, which annotations are usable (all of them unless ``on_error`` is ``"skip"``); and a line for each
        other one.
    """
    image_ids, category_ids = integers(path, "images", images), integers(path, "categories", categories)
    for kind, ids in (("images", image_ids), ("annotations", columns.id), ("categories", category_ids)):
        _check_unique(path, kind, ids)
    names = Counter(canonical(category.name) for category in categories)
    for name, count in names.items():
        if count > 1:
            raise UserError(f"{path}: {count} categories are named {name!r}; names must be unique")
    _check_images(path, images, category_ids)
    return _check_annotations(path, images, columns, image_ids, category_ids, on_error)


def integers(path: Path, kind: str, records: list, attribute: str = "id") -> np.ndarray:
    """An attribute of all records, int64; UserError where a number is too large."""
    try:
        return np.fromiter(map(attrgetter(attribute), records), np.int64, len(records))
    except OverflowError:
        raise UserError(f"{path}: {kind} have a number in {attribute} that does not fit into 64 bits") from None


def _check_unique(path: Path, kind: str, ids: np.ndarray) -> None:
    in_order = np.sort(ids)
    if (in_order[1:] != in_order[:-1]).all():
        return
    values, first, counts = np.unique(ids, return_index=True, return_counts=True)
    which = np.flatnonzero(counts > 1)
    one = which[np.argmin(first[which])]
    positions = np.flatnonzero(ids == values[one])[:2]
    more = f" ({len(which)} ids in all)" if len(which) > 1 else ""
    raise UserError(
        f"{path}: {kind}[{positions[0]}] and {kind}[{positions[1]}] have the same id {values[one]}{more}; "
        "ids must be unique"
    )


def _check_images(path: Path, images: list, category_ids: np.ndarray) -> None:
    width, height = (integers(path, "images", images, field) for field in ("width", "height"))
    for index in np.flatnonzero((width <= 0) | (height <= 0))[:1]:
        raise UserError(f"{path}: images[{index}] (id {images[index].id}) has the size {width[index]} x "
                        f"{height[index]}; give width and height in pixels")
    for index, image in enumerate(images):
        if not image.file_name and not image.coco_url:
            raise UserError(f"{path}: images[{index}] (id {image.id}) has neither a file_name nor a coco_url")
    known = set(category_ids.tolist())
    for field in ("neg_category_ids", "not_exhaustive_category_ids"):
        if known.issuperset(chain.from_iterable(filter(None, map(attrgetter(field), images)))):
            continue
        for index, image in enumerate(images):
            for unknown in set(getattr(image, field) or ()) - known:
                raise UserError(f"{path}: images[{index}] (id {image.id}): {field} has the unknown category id "
                                f"{unknown}")


def _check_annotations(path: Path, images: list, columns: "Columns", image_ids: np.ndarray, category_ids: np.ndarray,
                       on_error: str) -> tuple[np.ndarray, list[str]]:
    keep, skipped = np.ones(len(columns), bool), []
    x, y, width, height = columns.box.T
    order = np.argsort(image_ids)
    place = np.searchsorted(image_ids, columns.image_id, sorter=order)
    known = place < len(image_ids)
    known[known] = image_ids[order[place[known]]] == columns.image_id[known]
    image_size = np.full((2, len(columns)), np.inf)
    for row, field in enumerate(("width", "height")):
        image_size[row, known] = integers(path, "images", images, field)[order[place[known]]]

    zero = (width == 0) | (height == 0)
    for index in np.flatnonzero(zero):
        zero[index] = (columns.id[index], columns.image_id[index]) not in _KNOWN_ZERO_AREA
    outside = (x >= image_size[0]) | (y >= image_size[1]) | (x + width <= 0) | (y + height <= 0)

    def box(index: int) -> str:
        return f"{columns.box[index].tolist()} (x, y, width, height)"

    mistakes: list[tuple[np.ndarray, Callable[[int], str]]] = [
        (~known, lambda i: f"belongs to the unknown image {columns.image_id[i]}"),
        (~np.isin(columns.category_id, category_ids), lambda i: f"has the unknown category {columns.category_id[i]}"),
        ((width < 0) | (height < 0), lambda i: f"has an inverted box {box(i)}"),
        (zero, lambda i: f"has a box of zero area {box(i)}"),
        (outside & ~zero, lambda i: f"has a box {box(i)} outside its image"),
        (columns.area < 0, lambda i: f"has a negative area {float(columns.area[i])}"),
        (~np.isin(columns.mask_byte, _MASK_BYTES), lambda i: "has a segmentation that is neither a list nor an object"),
    ]
    for wrong, words in mistakes:
        found = np.flatnonzero(wrong & keep)
        lines = [f"{_where(i, columns.id[i], columns.image_id[i])} {words(i)}" for i in found]
        if lines and on_error != "skip":
            more = f" ({len(lines)} such annotations)" if len(lines) > 1 else ""
            raise UserError(f"{path}: {lines[0]}{more}; {_SKIP_HINT}")
        skipped.extend(lines)
        keep[found] = False
    return keep, skipped


def explain(path: Path, content: bytes, error: "msgspec.DecodeError") -> UserError:
    """Why ``content`` did not decode, in words."""
    text = str(error)
    if not content.strip():
        return UserError(f"{path} is empty; fetch or build it again")
    malformed = re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", text)
    if text.startswith("Input data was truncated") or (malformed and int(malformed[2]) >= len(content)):
        return UserError(f"{path} is cut: its json ends in the middle, at byte {len(content)}; fetch or build it again")
    if malformed:
        position = int(malformed[2])
        line = content.count(b"\n", 0, position) + 1
        near = content[max(0, position - 20) : position + 20].decode(errors="replace")
        where = f"at byte {position} (line {line}), near {near!r}"
        return UserError(f"{path} is not valid json: {malformed[1]} {where}; correct the file")
    return UserError(f"{path}: {in_words(text)}; correct the file")


_NON_FINITE = re.compile(rb"[-:,\[\s](NaN|Infinity)\b")


def has_non_finite(content: bytes, error: "msgspec.DecodeError") -> bool:
    """Whether decoding failed at NaN or Infinity: Python's json writes them, but json does not have them."""
    place = re.search(r"invalid character \(byte (\d+)\)$", str(error))
    return bool(place) and bool(_NON_FINITE.search(content[max(0, int(place[1]) - 4) : int(place[1]) + 12]))


def without_non_finite(path: Path, content: bytes, on_error: str) -> tuple[bytes, list[str]]:
    """With ``"skip"``, the file without the annotations that have such numbers, and which they were; else UserError.

    Uses Python's json: slow, but it can say which record it was.
    """
    try:
        file = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} is not valid json: {error}; correct the file") from None
    kept, lines = [], []
    for index, record in enumerate(file.get("annotations", ())):
        fields = [key for key, value in record.items() if not _is_finite(value)]
        if fields:
            where = _where(index, record.get("id"), record.get("image_id"))
            lines.append(f"{where} has a NaN or infinite number in {' and '.join(fields)}")
        else:
            kept.append(record)
    if lines and on_error != "skip":
        more = f" ({len(lines)} such annotations)" if len(lines) > 1 else ""
        raise UserError(f"{path}: {lines[0]}{more}; {_SKIP_HINT}")
    file["annotations"] = kept
    if not _is_finite(file):
        raise UserError(f"{path} has a NaN or infinite number outside its annotations; correct the file")
    return json.dumps(file).encode(), lines


def _where(index: int, annotation_id: object, image_id: object) -> str:
    return f"annotations[{index}] (id {annotation_id}, image {image_id})"


def _is_finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def in_words(text: str) -> str:
    """msgspec's message with the record first: ``annotations[3].bbox: expected an array of length 4``."""
    what, _, where = text.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{where or 'its top level'} has no {missing[1]!r}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        return f"{where} has a field {unknown[1]!r}: too odd a name, or one too many of more than 100 extra fields"
    return f"{where or 'its top level'}: {what[0].lower()}{what[1:].replace('`', '')}"
