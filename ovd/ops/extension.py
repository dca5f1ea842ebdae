"""Provides ``mmcv._ext`` where mmcv was installed without its compiled operators.

This module is imported by ``import ovd`` and must stay light: the operators, and PyTorch with them, are imported when
``mmcv._ext`` itself is.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

EXTENSION = "mmcv._ext"

# The operators that are provided: name in mmcv._ext -> module of this package that defines it under the same name.
OPERATORS = {
    "nms": "nms",
    "softnms": "nms",
    "nms_match": "nms",
    "roi_align_forward": "roi_align",
    "roi_align_backward": "roi_align",
}


class OperatorNotCompiled(NotImplementedError):
    """An operator of mmcv was called that neither a compiled mmcv nor this package provides."""


class _OperatorLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = "mmcv's operators on torchvision and PyTorch (ovd.ops)."
        for name, home in OPERATORS.items():
            setattr(module, name, getattr(importlib.import_module(f"ovd.ops.{home}"), name))
        module.get_compiler_version = lambda: "not compiled (torchvision operators of ovd.ops)"
        module.get_compiling_cuda_version = lambda: "not compiled (torchvision operators of ovd.ops)"
        module.__getattr__ = _missing


class _OperatorFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _OperatorLoader(), origin="ovd.ops") if fullname == EXTENSION else None


def install() -> None:
    """Let ``import mmcv._ext`` fall back on this package. Idempotent.

    The finder goes to the end of ``sys.meta_path``, behind Python's own: a compiled ``mmcv._ext`` is found first, and
    one that is installed but broken fails with its own error instead of being replaced in silence.
    """
    if not any(isinstance(finder, _OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.append(_OperatorFinder())


def _missing(name: str) -> Callable[..., None]:
    """mmcv asks for every operator's name when it is imported; only calling one that is missing is an error."""
    if name.startswith("_"):
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")

    def operator(*args: object, **kwargs: object) -> None:
        raise OperatorNotCompiled(f"mmcv operator '{name}' needs a compiled mmcv")

    operator.__name__ = operator.__qualname__ = name
    return operator
