"""``ovd classes list`` and ``show``: what is in a registry."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry
from pipelines.classes.origins import Origin, described


def list_classes(registry: str | Path) -> None:
    """Print a table of the classes in the order in which they were added.

    Raises:
        UserError: A registry without classes.
    """
    there = ClassRegistry(registry)
    if not there.names:
        there.head()  # says that it is empty
    heads = [there.get(name) for name in there.names]
    rows = [("class", "from", "shots", "form", "vectors")]
    for head in heads:
        origin = Origin.of(head.provenance[0])
        rows.append((head.names[0], " + ".join(origin.sources) or "unknown", str(origin.shots or "-"), form(head),
                     str(vectors(head))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"{there.path}: {len(heads):,} class{'es' * (len(heads) != 1)}, width {heads[0].dim}, space "
          f"{(heads[0].space or 'unknown')[:15]}")


def show_class(name: str, registry: str | Path, nearest: int = 5) -> None:
    """Print where a class comes from, and the other classes that are nearest to it.

    Raises:
        UserError: An unknown class.
    """
    if nearest < 0:
        raise UserError(f"--nearest {nearest}: needs a number of classes, 0 or more")
    there = ClassRegistry(registry)
    head = there.get(name)
    print(f"{head.names[0]}: {described(head.provenance[0])}")
    print(f"  form: {form(head)}, {vectors(head)} vector{'s' if vectors(head) > 1 else ''} of width {head.dim}")
    print(f"  space: {head.space or 'unknown'}")
    for line in _lines(head.provenance[0]):
        print(f"  {line}")
    whole = there.head()
    row = whole.names.index(head.names[0])
    directions_CD = directions(whole)
    cosines = (directions_CD @ directions_CD[row]).tolist()
    others = sorted((index for index in range(len(whole)) if index != row), key=lambda index: (-cosines[index], index))
    if others[:nearest]:
        print("  nearest classes by cosine:")
        for index in others[:nearest]:
            print(f"    {cosines[index]:.3f}  {whole.names[index]}")


def form(head: ClassHead) -> str:
    """How a class of the registry scores regions, in words."""
    if head.reduce != "mixed":
        return f"{head.norm}, {head.reduce}"
    return f"{head.norm}, of several terms" if vectors(head) > 1 else f"{head.norm}, with a factor"


def vectors(head: ClassHead) -> int:
    """How many vectors the class of a head of one class has."""
    return head.weights.shape[1] if head.counts is None else int(head.counts[0])


def directions(head: ClassHead) -> Tensor:
    """One unit row a class, ``[C, D]``: the mean of its unit vectors."""
    unit_CMD = F.normalize(head.weights, dim=-1)
    if head.counts is not None:
        unit_CMD = unit_CMD * (torch.arange(unit_CMD.shape[1]) < head.counts[:, None])[..., None]
    return F.normalize(unit_CMD.sum(1), dim=-1)


def _lines(record: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """A provenance as lines ``key: value``, its parts below each other."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield f"{' ' * indent}{key}:"
            yield from _lines(value, indent + 2)
        elif isinstance(value, list | tuple) and any(isinstance(part, list | tuple | Mapping) for part in value):
            yield f"{' ' * indent}{key}:"
            for part in value:
                if isinstance(part, Mapping):
                    yield f"{' ' * (indent + 2)}-"
                    yield from _lines(part, indent + 4)
                else:
                    yield f"{' ' * (indent + 2)}{_plain(part)}"
        else:
            yield f"{' ' * indent}{key}: {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
