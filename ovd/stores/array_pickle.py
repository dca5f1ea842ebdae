"""Pickles that hold only arrays, lists and dicts, read without running the code that a pickle may carry.

Proposal files of mmdet and weights of detectron2 are such pickles. The reader builds the arrays itself and refuses
every other object.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ovd.errors import UserError

_NUMBERS = {kind + size for kind in "iu" for size in "1248"} | {"f2", "f4", "f8", "b1"}


def load_arrays(path: str | os.PathLike) -> Any:
    """What is in a pickle: lists, tuples, dicts, numbers, text, and a :class:`PickledArray` for each array.

    Raises: UserError when the file is missing, cannot be read as a pickle, or holds anything else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _Unpickler(file).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a pickle ({reason}); it is truncated or another kind of file") \
            from error


class _Dtype:
    """Stands for numpy.dtype while a pickle is read; numbers only."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.order = "="
        if self.name.lstrip("<>=|") not in _NUMBERS:
            raise UserError(f"holds arrays of type {self.name!r}, expected numbers")

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def real(self) -> np.dtype:
        return np.dtype(self.name).newbyteorder(self.order)


class PickledArray:
    """Stands for a numpy array of a pickle; ``array`` is None where the pickle gave it no contents."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # written by Python 2
        self.fill(data, dtype, shape, "F" if is_fortran else "C")

    def fill(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> "PickledArray":
        self.array = np.frombuffer(bytes(data), dtype.real()).reshape(shape, order=order)
        return self


def _reconstruct(kind: type, shape: Any, code: Any) -> PickledArray:
    return PickledArray()


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> PickledArray:
    return PickledArray().fill(data, dtype, shape, order)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how protocols 0 to 2 carry bytes


class _Unpickler(pickle.Unpickler):
    _KNOWN = {
        ("collections", "OrderedDict"): OrderedDict, ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): PickledArray, ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _frombuffer, ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise UserError(f"holds {module}.{name}, not only arrays and lists; such a file could run code and is not "
                            "read")
        return self._KNOWN[module, name]
