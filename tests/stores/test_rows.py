"""Rows of int8: against the formula, unit length, the same again; casts by torch and by numpy are equal to the bit."""

import hashlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.stores.rows import dequantise, half, lengths, quantise, single


def unit_rows(seed: int, count: int, dim: int, spread: float) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(count, dim)) ** 3 * spread
    raw[:, 0] += 1
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 90), st.sampled_from([1, 3, 128, 512, 1024]),
       st.sampled_from([0.0, 0.01, 1.0]))
def test_quantised_rows_are_the_formulas_unit_and_stable(seed, count, dim, spread):
    rows = unit_rows(seed, count, dim, spread)
    codes, scales = quantise(rows)
    for row, code, scale in zip(rows.astype(np.float64), codes.astype(np.float64), scales):
        # one step beside the exact quotient where that lies between two codes and float32 rounds it
        assert np.abs(code - row * 127 / np.abs(row).max()).max() <= 0.5 + 1e-4
        assert np.abs(code).max() == 127
        np.testing.assert_allclose(scale, 1 / np.linalg.norm(code), rtol=1e-6)
    read = dequantise(codes, scales)
    assert read.dtype == np.float16 and (np.abs(np.linalg.norm(read.astype(np.float64), axis=1) - 1) < 1e-3).all()
    again, scales_again = quantise(read)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(scales_again, scales)


def test_rows_do_not_depend_on_their_neighbours():
    rows = unit_rows(0, 300, 512, 1.0)
    codes, scales = quantise(rows)
    for index in (0, 63, 64, 299):
        one, scale = quantise(rows[index:index + 1])
        np.testing.assert_array_equal(one[0], codes[index])
        assert scale[0] == scales[index]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_casts_round_as_numpy_does():
    assert "torch" in sys.modules and torch.get_num_threads() > 0
    rng = np.random.default_rng(0)
    every_half = np.arange(65536, dtype=np.uint16).view(np.float16)
    spread = (rng.normal(size=90_000) * 10.0 ** rng.integers(-9, 6, 90_000)).astype(np.float32)
    values = np.concatenate([every_half.astype(np.float32), spread, np.float32([65504, 65519.9, 65520, 1e9, -1e9])])
    np.testing.assert_array_equal(half(values), values.astype(np.float16))
    np.testing.assert_array_equal(single(every_half), every_half.astype(np.float32))
    read_only = values[::2]
    read_only.flags.writeable = False
    np.testing.assert_array_equal(half(read_only), read_only.astype(np.float16))
    np.testing.assert_array_equal(half(values.astype(np.float64)), values.astype(np.float64).astype(np.float16))
    rows = unit_rows(1, 200, 512, 1.0)
    np.testing.assert_allclose(lengths(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)


def test_a_process_without_torch_gets_the_same_and_does_not_load_it():
    code = """if True:
        import hashlib, sys
        import numpy as np
        from ovd.stores.rows import dequantise, quantise
        codes, scales = quantise(np.load(sys.argv[1]))
        data = codes.tobytes() + scales.tobytes() + dequantise(codes, scales).tobytes()
        print(hashlib.sha256(data).hexdigest(), "torch" in sys.modules)
    """
    rows = unit_rows(2, 100, 512, 1.0)
    codes, scales = quantise(rows)
    expected = hashlib.sha256(codes.tobytes() + scales.tobytes() + dequantise(codes, scales).tobytes()).hexdigest()
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, rows)
        file.flush()
        done = subprocess.run([sys.executable, "-c", code, file.name], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
