"""Embedding rows as they are stored: float16, or int8 with a scale a row (half the size).

A row of int8 is ``round(127 x / max|x|)`` and its scale ``1 / |q|``: rows that are read have unit length whatever the
rounding did, which ``max|x| / 127`` would not give; the direction is the same. Quantising what was read gives the same
int8 again.

Shapes: N rows, D width.
"""

import sys

import numpy as np

ROWS = ("float16", "int8")

_BLOCK = 1 << 15  # values; torch computes so few in the calling thread, which is safe in a forked process


def half(values: np.ndarray) -> np.ndarray:
    """float16 of an array, rounded to nearest, contiguous; the array itself where it is that."""
    values = np.asarray(values)
    if values.dtype != np.float32 or not values.flags.c_contiguous:
        return np.ascontiguousarray(values, "<f2")
    return _cast(values, np.float16)


def single(rows_ND: np.ndarray) -> np.ndarray:
    """float32 of contiguous float16 values."""
    return _cast(rows_ND, np.float32)


def lengths(rows_ND: np.ndarray) -> np.ndarray:
    """Euclidean length of each float16 row, float32 ``[N]``."""
    result_N = np.empty(len(rows_ND), np.float32)
    for block in _blocks(rows_ND):
        values = single(rows_ND[block])
        result_N[block] = np.einsum("nd,nd->n", values, values)
    return np.sqrt(result_N)


def quantise(rows_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 ``[N, D]`` and float32 scales ``[N]`` of float16 rows of unit length."""
    codes_ND, scales_N = np.empty(rows_ND.shape, np.int8), np.empty(len(rows_ND), np.float32)
    for block in _blocks(rows_ND):
        values = single(rows_ND[block])
        values *= 127 / np.abs(values).max(1, keepdims=True)
        codes_ND[block] = np.rint(values, out=values)
        squares = np.einsum("nd,nd->n", values, values, dtype=np.float64)  # of whole numbers: exact
        scales_N[block] = 1 / np.sqrt(squares)
    return codes_ND, scales_N


def dequantise(codes_ND: np.ndarray, scales_N: np.ndarray) -> np.ndarray:
    """float16 rows of unit length from what :func:`quantise` gave."""
    rows_ND = np.empty(codes_ND.shape, np.float16)
    for block in _blocks(codes_ND):
        rows_ND[block] = half(np.multiply(codes_ND[block], scales_N[block, None], dtype=np.float32))
    return rows_ND


def _blocks(rows_ND: np.ndarray) -> list[slice]:
    size = max(1, _BLOCK // max(1, rows_ND.shape[1]))
    return [slice(start, start + size) for start in range(0, len(rows_ND), size)]


def _cast(values: np.ndarray, dtype: type) -> np.ndarray:
    """By torch in a process that has it loaded: a tenth of numpy's time, the same bits."""
    torch = sys.modules.get("torch")
    if torch is None:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(dtype)
    source, result = values.reshape(-1), np.empty(values.size, dtype)
    for start in range(0, len(source), _BLOCK):
        block = source[start:start + _BLOCK]
        if not block.flags.writeable:
            block = block.copy()  # torch warns of others
        torch.from_numpy(result[start:start + _BLOCK]).copy_(torch.from_numpy(block))
    return result.reshape(values.shape)
