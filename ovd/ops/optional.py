"""Lets mmdet be imported without imgaug.

onedl-mmdetection 3.5 imports imgaug for its lane-line transforms whenever its datasets are imported. imgaug has had no
release since 2020 and does not import with numpy 2. Where it is absent, its names exist, and using one is an error.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from ovd.errors import UserError

PACKAGE = "imgaug"


def install() -> None:
    """Let ``import imgaug`` fall back on a stand-in; an installed one is found first. Idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] != PACKAGE:
            return None
        return ModuleSpec(fullname, _Loader(), origin="ovd.ops", is_package=True)


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> None:
        return None  # an ordinary module

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _absent


def _absent(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)

    class Absent:
        def __init__(self, *args: object, **kwargs: object) -> None:
            raise UserError(f"{PACKAGE}.{name} is needed, but {PACKAGE} is not installed")

    return Absent
