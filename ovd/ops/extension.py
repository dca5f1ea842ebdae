"""Provides ``mmcv._ext`` where mmcv was installed without its compiled operators.

``import ovd`` imports this module, so it must stay light: the operators, and PyTorch with them, are imported when
``mmcv._ext`` itself is.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from ovd.errors import UserError

EXTENSION = "mmcv._ext"

# What is provided: the module of this package -> the operators that it defines under the names they have in mmcv._ext.
OPERATORS = {
    "nms": ("nms", "softnms", "nms_match"),
    "roi_align": ("roi_align_forward", "roi_align_backward"),
    "roi_pool": ("roi_pool_forward", "roi_pool_backward"),
    "focal_loss": (
        "sigmoid_focal_loss_forward",
        "sigmoid_focal_loss_backward",
        "softmax_focal_loss_forward",
        "softmax_focal_loss_backward",
    ),
    "deform_conv": (
        "deform_conv_forward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_forward",
        "modulated_deform_conv_backward",
    ),
}

# onedl-mmcv builds its operators whenever its build can import torch, which pip's isolated builds cannot. pip would
# reuse the wheel that it built without them, hence --no-cache-dir.
HOW_TO_COMPILE = (
    "pip install 'setuptools>=80,<82' wheel ninja && "
    "pip install --no-build-isolation --no-cache-dir --no-deps --force-reinstall --no-binary onedl-mmcv onedl-mmcv"
)


class OperatorNotCompiled(UserError, NotImplementedError):
    """An operator of mmcv was called that neither a compiled mmcv nor :mod:`ovd.ops` provides."""


def install() -> None:
    """Let ``import mmcv._ext`` fall back on this package. Idempotent, and imports nothing.

    The finder stands at the end of ``sys.meta_path``, behind Python's own: a compiled ``mmcv._ext`` is found first, and
    one that is installed but broken fails with its own error instead of being replaced in silence.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def build_extension() -> ModuleType:
    """A module with every operator of ``mmcv._ext``: those of :data:`OPERATORS`, and the names of all others."""
    module = ModuleType(EXTENSION)
    _fill(module)
    return module


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Loader(), origin="ovd.ops") if fullname == EXTENSION else None


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> None:
        return None  # an ordinary module

    def exec_module(self, module: ModuleType) -> None:
        _fill(module)


def _fill(module: ModuleType) -> None:
    module.__doc__ = "mmcv's operators on torchvision and PyTorch (ovd.ops)."
    for home, names in OPERATORS.items():
        source = importlib.import_module(f"ovd.ops.{home}")
        for name in names:
            setattr(module, name, getattr(source, name))
    module.get_compiler_version = module.get_compiling_cuda_version = _compiler
    module.__getattr__ = _not_compiled


def _compiler() -> str:
    """What mmcv reports as its compiler, in the environment that training logs."""
    return "none (torchvision operators of ovd.ops)"


def _not_compiled(name: str) -> Callable[..., None]:
    """mmcv asks for the names of all its operators when it is imported; only a call of a missing one is an error."""
    if name.startswith("_"):
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")

    def operator(*args: object, **kwargs: object) -> None:
        raise OperatorNotCompiled(
            f"mmcv was installed without its compiled operators and ovd.ops has no replacement for {name!r}; compile "
            f"mmcv with a C++ compiler (for GPUs also nvcc and FORCE_CUDA=1; about 15 minutes): {HOW_TO_COMPILE}"
        )

    operator.__name__ = operator.__qualname__ = name
    return operator
