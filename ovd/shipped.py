"""Where the files lie that come with the code: configs, recipes and the small pretrained models.

In a checkout that is its top; in an installed package (see ``setup.py``) a folder of their own.
"""

import os
from pathlib import Path

_INSTALLED = Path(__file__).resolve().parent / "_shipped"
_TOP = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1]

CONFIGS = _TOP / "configs"
PRETRAINED = _TOP / "pretrained"


def shown(path: Path) -> Path:
    """A path as one would type it: relative to this folder, or as :func:`located` takes it."""
    whole, here = path.resolve(), Path.cwd()
    if whole.is_relative_to(here):
        return whole.relative_to(here)
    return whole.relative_to(_TOP) if whole.is_relative_to(CONFIGS) else path


def located(path: str | os.PathLike) -> Path:
    """The path itself; ``configs/...`` where there is no such file here, but the project has it."""
    path = Path(path)
    ours = _TOP / path
    return ours if path.parts[:1] == ("configs",) and not path.exists() and ours.is_file() else path
