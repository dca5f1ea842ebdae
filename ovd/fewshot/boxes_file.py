"""A user's boxes as shots: a COCO json (also what ovd find-support writes), a csv, or a file of shots.

A csv has a header and the columns ``image,x1,y1,x2,y2`` and, where it has boxes of several classes, ``class``; corners
are in pixels of the image. Image names are relative to a folder that the file does not know.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ovd.data.annotations import image_path, load_annotations
from ovd.data.boxes import corners
from ovd.errors import UserError, nearest
from ovd.fewshot.shots import Shot, ShotSet
from ovd.stores.manifest import fingerprint
from ovd.vocabulary.classes import canonical, spelling

_CORNERS = ("x1", "y1", "x2", "y2")
_NEEDED = ("image", *_CORNERS)
_COLUMNS = (*_NEEDED, "class")
_EXAMPLE = "the first line of a csv of boxes is image,x1,y1,x2,y2 or image,x1,y1,x2,y2,class"


def read_boxes_file(path: str | Path, names: Sequence[str] | None = None) -> ShotSet:
    """The boxes of a file, in its order, class by class.

    ``info`` says which file it was and, where ovd find-support wrote it, the folder of its images below the data root
    (``image_folder``). Annotations that outline a crowd are left out.

    Args:
        path: ``.csv``, or a json: COCO's, or one that :meth:`ShotSet.save` wrote.
        names: The classes that are wanted; None for all. For a csv without classes, the one class that its boxes are.

    Raises:
        UserError: one line that names the file and the record: not such a file, a class without boxes, a box that is
            none or that is outside its image (where the file says its size), the same box twice, two classes of one
            name.
    """
    path = Path(path)
    made_from = {"file": path.name, "sha256": fingerprint(path)}
    if path.suffix.lower() == ".csv":
        return _chosen(path, _csv_shots(path, names), names, {"method": "boxes file", **made_from})
    header = _json_header(path)
    if header.kind == "shots":
        shots = ShotSet.load(path)
        return _chosen(path, shots.classes, names, {**shots.info, **made_from})
    folder = {"image_folder": header.info["image_folder"]} if isinstance(header.info.get("image_folder"), str) else {}
    return _chosen(path, _coco_shots(path), names, {"method": "boxes file", **made_from, **folder})


def first_boxes(shots: ShotSet, count: int, path: str | Path) -> ShotSet:
    """The first ``count`` boxes of each class of a file.

    Raises:
        UserError: A class with fewer.
    """
    for name, boxes in shots.classes.items():
        if len(boxes) < count:
            raise UserError(f"{path}: has {len(boxes)} boxes of {name!r}, {count} are asked for; pass a smaller "
                            "--shots")
    return shots.first(count)


def checked_images(shots: ShotSet, path: str | Path, images: str | Path | None,
                   data_root: str | Path | None = None) -> Path:
    """The folder of the images of a file's boxes, which are there and hold their boxes.

    Args:
        images: The folder, where the user names it (``--images``). Else the one that the file says (of ovd
            find-support, below ``data_root``), or the file's own.

    Raises:
        UserError: An image that is not there or is damaged; a box outside its image.
    """
    if images is not None:
        shots.check(Path(images))
        return Path(images)
    folder = Path(path).parent
    if data_root and "image_folder" in shots.info:
        folder = Path(data_root, shots.info["image_folder"])
    try:
        shots.check(folder)
    except UserError as error:
        raise UserError(f"{error} (--images DIR)") from error
    return folder


class _Header(msgspec.Struct):
    kind: str | None = None
    info: dict = {}


def _json_header(path: Path) -> _Header:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Header()  # the reader of the file says what is wrong with it


def _chosen(path: Path, classes: dict[str, tuple[Shot, ...]], names: Sequence[str] | None, info: dict) -> ShotSet:
    spelled: dict[str, str] = {}
    for name in (name for name, shots in classes.items() if shots):
        if (other := spelled.setdefault(spelling(name), name)) != name:
            raise UserError(f"{path}: {other!r} and {name!r} are one class name in two spellings; write it in one")
    if names is not None:
        known = {canonical(name): name for name in classes}
        for name in names:
            if canonical(name) not in known:
                raise UserError(f"{path}: has no boxes of a class {name!r}{nearest(name, classes)}")
        classes = {name: classes[known[canonical(name)]] for name in names}
    for name, shots in classes.items():
        if not shots:
            raise UserError(f"{path}: the class {name!r} has no boxes; draw at least one, or leave the class out")
    if not classes:
        raise UserError(f"{path}: has no boxes; draw at least one")
    try:
        return ShotSet(classes, info)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _coco_shots(path: Path) -> dict[str, tuple[Shot, ...]]:
    annotations = load_annotations(path)
    images = {image.id: image for image in annotations.images}
    names = {category.id: category.name for category in annotations.categories}
    found: dict[str, list[Shot]] = {name: [] for name in names.values()}
    seen: dict[tuple, int] = {}
    for record in annotations.annotations:
        if record.iscrowd:
            continue
        image, where = images[record.image_id], f"{path}: annotation {record.id}"
        try:
            shot = Shot(image_path(image, "").as_posix(), image.id, tuple(corners([record.bbox])[0]), record.id,
                        (image.width, image.height))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        first = seen.setdefault((record.category_id, shot.image, shot.box), record.id)
        if first != record.id:
            raise UserError(f"{where} is the same box as annotation {first}; leave one out")
        found[names[record.category_id]].append(shot)
    return {name: tuple(shots) for name, shots in found.items()}


def _csv_shots(path: Path, names: Sequence[str] | None) -> dict[str, tuple[Shot, ...]]:
    rows = _csv_rows(path)
    if rows and "class" not in rows[0][1] and (names is None or len(names) != 1):
        raise UserError(f"{path}: has no column class, so all its boxes are of one class: name that one, or add the "
                        "column")
    found: dict[str, list[Shot]] = {}
    ids: dict[str, int] = {}
    seen: dict[tuple, int] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        name = row.get("class", names[0] if names else "")
        if not name or not row["image"]:
            raise UserError(f"{where}: has no {'image' if name else 'class'}; fill it in")
        try:
            box = tuple(float(row[key]) for key in _CORNERS)
        except ValueError:
            box = (math.nan,)
        if not all(map(math.isfinite, box)):
            raise UserError(f"{where}: {', '.join(row[key] for key in _CORNERS)} are not four numbers (x1, y1, x2, y2 "
                            "in pixels)")
        try:
            shot = Shot(row["image"], ids.setdefault(row["image"], 1 + len(ids)), box)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        first = seen.setdefault((name, shot.image, shot.box), line)
        if first != line:
            raise UserError(f"{where} is the same box as line {first}; leave one out")
        found.setdefault(name, []).append(shot)
    return {name: tuple(shots) for name, shots in found.items()}


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and stripped values by column."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            rows = []
            for values in reader:
                if not any(value.strip() for value in values):
                    continue
                if len(values) != len(header):
                    raise UserError(f"{path}, line {reader.line_num}: has {len(values)} values, expected {len(header)} "
                                    f"({','.join(header)})")
                rows.append((reader.line_num, {key: value.strip() for key, value in zip(header, values)}))
            return rows
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no csv in UTF-8 ({error}); {_EXAMPLE}") from None


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) == 1 and (found := next((sign for sign in ";\t|" if sign in header[0]), None)):
        raise UserError(f"{path}: its columns are separated by {found!r}; write commas between them, and points in "
                        f"numbers ({_EXAMPLE})")
    for name in header:
        if name not in _COLUMNS:
            raise UserError(f"{path}: unknown column {name!r}{nearest(name, _COLUMNS)}; {_EXAMPLE}")
        if header.count(name) > 1:
            raise UserError(f"{path}: has the column {name!r} twice; {_EXAMPLE}")
    for name in _NEEDED:
        if name not in header:
            raise UserError(f"{path}: has no column {name!r}; {_EXAMPLE}")
