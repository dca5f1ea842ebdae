"""Marks in manifests that go with everything made from what bears them; first of all that of an untrained CLIP."""

import os
from collections.abc import Iterable
from pathlib import Path

from ovd.stores.manifest import Manifest

FLAG = "untrained"


def marked(artefacts: Iterable[str | os.PathLike], flag: str = FLAG) -> list[Path]:
    """Those of ``artefacts`` (class heads, region stores, checkpoints) that come from an untrained CLIP, or bear
    another mark.

    A checkpoint from the middle of a run has no manifest of its own; the run's counts.
    """
    return [path for path in dict.fromkeys(map(Path, artefacts)) if _flags(path).get(flag)]


def warn(sources: list[Path], what: str) -> None:
    """Say that ``what`` means nothing because of ``sources``; nothing where there are none."""
    if sources:
        names = " and ".join(map(str, sources))
        print(f"WARNING: {names}: made with an untrained CLIP (random weights). {what} as a check that everything "
              "runs, and for nothing else.")


def _flags(path: Path) -> dict:
    for artefact in (path, path.with_name("run.json")):
        if Manifest.path(artefact).exists():
            return Manifest.read(artefact).flags
        if path.suffix != ".pth":
            break
    return {}
