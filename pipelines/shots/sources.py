"""Annotation files and image folders of a command, and the file of shots that it writes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ovd.data.annotations import Annotations, load_annotations
from ovd.errors import UserError
from ovd.fewshot.annotation_pool import Source, common_root, pool
from ovd.fewshot.shots import ShotSet
from ovd.stores.manifest import Manifest, fingerprint, publish

STAGE = "shots"


def read_pool(annotations: Sequence[str | Path], image_root: Sequence[str | Path]) -> Annotations:
    """The records of one or several files as one (see :func:`ovd.fewshot.annotation_pool.pool`)."""
    roots = paired_roots(annotations, image_root)
    return pool([Source(load_annotations(path), Path(path), root) for path, root in zip(annotations, roots)])


def paired_roots(annotations: Sequence[str | Path], image_root: Sequence[str | Path]) -> list[Path | None]:
    """A folder for each annotation file: its own, the one of all, or None where none is given."""
    roots = [Path(root) for root in image_root]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"--image-root {root}: no such folder")
    if len(roots) <= 1:
        return (roots or [None]) * len(annotations)
    if len(roots) != len(annotations):
        raise UserError(f"there are {len(annotations)} --annotations and {len(roots)} --image-root; give one folder "
                        "for each file, in the same order, or one for all")
    return roots


def root_of(annotations: Sequence[str | Path], image_root: Sequence[str | Path]) -> Path | None:
    """The folder that the shots' images are relative to; None where none is given."""
    return common_root(paired_roots(annotations, image_root) if annotations else [Path(root) for root in image_root])


def folders(annotations: Sequence[str | Path], image_root: Sequence[str | Path]) -> list[str] | None:
    """Each image folder below the one that all are in: what file names begin with. None where there is one."""
    root = root_of(annotations, image_root)
    if len(image_root) < 2 or root is None:
        return None
    return [Path(os.path.relpath(folder, root)).as_posix() for folder in image_root]


def named(paths: Iterable[str | Path]) -> str:
    """The files of a message."""
    return ", ".join(str(path) for path in paths)


def inputs_of(**files: Sequence[str | Path]) -> dict[str, str]:
    """Fingerprints by the name of the option; the second file of one is ``NAME.2``."""
    return {name if number == 1 else f"{name}.{number}": fingerprint(path)
            for name, paths in files.items() for number, path in enumerate(paths, 1)}


def publish_shots(out: Path, shots: ShotSet, config: dict[str, Any], inputs: dict[str, str]) -> None:
    """Write the file with its manifest, and say what is in it."""
    boxes = list(shots.shots())
    counts = {"classes": len(shots.names), "shots": len(boxes), "images": len({shot.image for shot in boxes})}
    with publish(out, Manifest("shots", STAGE, config, inputs, counts)) as (temporary, _):
        shots.save(temporary)
    print(f"shots: {out} ({shots.hash[:15]}): {summary(shots)}")


def summary(shots: ShotSet) -> str:
    """``80 classes, 5 shots of each, 400 boxes in 391 images``."""
    boxes = list(shots.shots())
    fewest = min(map(len, shots.classes.values()))
    each = f"{shots.k}" if fewest == shots.k else f"{fewest} to {shots.k}"
    classes, images = len(shots.names), len({shot.image for shot in boxes})
    return (f"{classes:,} class{'es' * (classes > 1)}, {each} shot{'s' * (shots.k > 1)} of each, {len(boxes):,} "
            f"box{'es' * (len(boxes) > 1)} in {images:,} image{'s' * (images > 1)}")
