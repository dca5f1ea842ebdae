"""The file of a set of shots: json, one shot a line, with the hash of the shots."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ovd.errors import UserError

SCHEMA = 1
_REMEDY = "make one with ovd shots sample, or ovd shots import"


class ShotRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A shot as the file has it; fields as :class:`ovd.fewshot.shots.Shot`."""

    image: str
    image_id: int
    box: tuple[float, float, float, float]
    annotation_id: int | None = None
    size: tuple[int, int] | None = None


class ClassRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The shots of a class."""

    name: str
    shots: list[ShotRecord]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    schema: int
    hash: str
    info: dict[str, Any]
    classes: list[ClassRecord]


@dataclass(frozen=True)
class ShotFile:
    """What a file says: the fields of each class's shots, how they were chosen, and the hash that they should have."""

    classes: dict[str, list[dict[str, Any]]]
    info: dict[str, Any]
    hash: str


def shot_file_bytes(classes: Mapping[str, Sequence[Mapping[str, Any]]], info: Mapping[str, Any], digest: str) -> bytes:
    """The contents of a file; the same shots and info are the same bytes."""
    head = {"kind": "shots", "schema": SCHEMA, "hash": digest, "info": info}
    blocks = []
    for name, records in classes.items():
        shots = ",\n".join(f"   {json.dumps(record, ensure_ascii=False)}" for record in records)
        blocks.append(f'  {{"name": {json.dumps(name, ensure_ascii=False)}, "shots": [\n{shots}]}}')
    opened = json.dumps(head, indent=1, sort_keys=True, ensure_ascii=False).removesuffix("\n}")
    return (opened + ',\n "classes": [\n' + ",\n".join(blocks) + "\n ]\n}\n").encode()


def read_shot_file(path: str | Path) -> ShotFile:
    """The records of a file, with their types checked; UserError where it is no such file."""
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the shots {path}: {error.strerror or error}") from None
    try:
        file = msgspec.json.decode(contents, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no file of shots ({error}); {_REMEDY}") from None
    if file.kind != "shots" or file.schema != SCHEMA:
        raise UserError(f"{path}: is of kind {file.kind!r}, schema {file.schema}; it must be of 'shots', {SCHEMA}: "
                        f"{_REMEDY}")
    classes: dict[str, list[dict[str, Any]]] = {}
    for record in file.classes:
        if record.name in classes:
            raise UserError(f"{path}: two classes are named {record.name!r}; rename one of them")
        classes[record.name] = [msgspec.structs.asdict(shot) for shot in record.shots]
    return ShotFile(classes, file.info, file.hash)
