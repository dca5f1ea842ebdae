"""``ovd classes export`` and ``remove``: classes out of a registry, into a file or away."""

from collections.abc import Sequence
from pathlib import Path

from ovd.errors import UserError
from ovd.stores.class_registry import STAGE, ClassRegistry
from ovd.stores.manifest import Manifest, fingerprint


def export_classes(out: str | Path, names: Sequence[str] = (), registry: str | Path = "data/classes") -> Path:
    """Write classes as one class head file (``.safetensors``) or as a dict of a matrix and names (``.pth``).

    Raises:
        UserError: A registry without classes, unknown names, another kind of file, a class of several vectors in a
            ``.pth``.
    """
    out, there = Path(out), ClassRegistry(registry)
    if out.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{out}: write a .safetensors or a .pth file")
    head = there.head()
    try:
        head = head.select(names) if names else head
    except UserError as error:
        raise UserError(f"{there.path}: {error}") from error
    if out.suffix == ".pth":
        head.export(out)
    else:
        head.save(out, STAGE, {"classes": list(head.names)},
                  {"registry": fingerprint(there.path), **({"clip": clip} if (clip := head.stats.get("clip")) else {})},
                  Manifest.read(there.path).flags)
    print(f"{out}: {len(head):,} class{'es' * (len(head) != 1)}, width {head.dim}")
    return out


def remove_classes(names: Sequence[str], registry: str | Path = "data/classes") -> None:
    """Remove classes, all or none.

    Raises:
        UserError: Unknown names.
    """
    there = ClassRegistry(registry)
    there.remove(*names)
    print(f"{there.path}: {len(there.names):,} class{'es' * (len(there.names) != 1)} left")
