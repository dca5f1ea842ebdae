"""Shots that an MMFewShot run saved (``save_dataset=True``): a list of a head with the classes, then of image records.

An image record has ``id``, ``filename`` (relative to the run's img_prefix), ``width``, ``height`` and ``ann`` with
``bboxes`` (x1, y1, x2, y2) and ``labels``; in an instance-wise dataset an image comes once for each box.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ovd.errors import UserError, nearest
from ovd.fewshot.shots import Shot, ShotSet
from ovd.stores.manifest import fingerprint
from ovd.vocabulary.classes import canonical


class _Head(msgspec.Struct):
    classes: list[str] = msgspec.field(name="CLASSES")
    img_prefix: str | None = None


class _Boxes(msgspec.Struct):
    bboxes: list[tuple[float, float, float, float]]
    labels: list[int]


class _Record(msgspec.Struct):
    id: int | str
    filename: str
    width: int
    height: int
    ann: _Boxes


def read_saved_dataset(path: str | Path, names: Sequence[str] | None = None) -> ShotSet:
    """The boxes of a saved dataset, in its order, class by class; ignored ones are left out.

    Args:
        names: The classes that are wanted, in that order; None for all that have boxes.

    Raises:
        UserError: no such file, a label without class, a class without boxes.
    """
    path = Path(path)
    classes, records = _read(path)
    found: dict[str, dict[tuple, Shot]] = defaultdict(dict)
    ids: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        where = f"{path}: record {number} ({record.filename})"
        if len(record.ann.bboxes) != len(record.ann.labels):
            raise UserError(f"{where} has {len(record.ann.bboxes)} boxes and {len(record.ann.labels)} labels; save it "
                            "again")
        if record.filename not in ids:
            ids[record.filename] = _image_id(record.id, ids)
        for box, label in zip(record.ann.bboxes, record.ann.labels):
            if not 0 <= label < len(classes):
                raise UserError(f"{where} has the label {label}, the file has {len(classes)} classes; save it again")
            try:
                shot = Shot(record.filename, ids[record.filename], box, None, (record.width, record.height))
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            found[classes[label]].setdefault((shot.image, shot.box), shot)
    known = {canonical(name): name for name in found}
    for name in names or ():
        if canonical(name) not in known:
            raise UserError(f"{path}: has no boxes of the class {name!r}{nearest(name, found)}")
    chosen = [known[canonical(name)] for name in names] if names else [name for name in classes if name in found]
    try:
        return ShotSet({name: tuple(found[name].values()) for name in chosen},
                       {"method": "mmfewshot saved dataset", "files": {path.name: fingerprint(path)}})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read(path: Path) -> tuple[list[str], list[_Record]]:
    try:
        head, *records = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
        return (msgspec.json.decode(head, type=_Head).classes,
                [msgspec.json.decode(record, type=_Record) for record in records])
    except OSError as error:
        raise UserError(f"cannot read the saved dataset {path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise UserError(f"{path}: is no saved dataset of MMFewShot, a list of a record with CLASSES and then of images "
                        f"({error})") from None


def _image_id(given: int | str, ids: dict[str, int]) -> int:
    """The id as a number (VOC's ``2008_000001`` without the line), or the next free one."""
    text = str(given)
    number = int(text.replace("_", "")) if re.fullmatch(r"\d+(_\d+)?", text) else -1
    taken = set(ids.values())
    return number if number >= 0 and number not in taken else 1 + max(taken, default=0)
