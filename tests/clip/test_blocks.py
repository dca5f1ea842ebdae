"""Blocks: a sliding window on an image pyramid, the whole image first."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.clip.blocks import block_boxes


@pytest.mark.parametrize(("size", "side", "per_level"), [
    ((640, 480), 224, [5 * 4, 3 * 2]),  # 640 x 480 and 427 x 320; 284 x 213 is too small
    ((480, 640), 224, [4 * 5, 2 * 3]),
    ((192, 192), 64, [25, 9, 4]),
    ((224, 224), 224, [1]),
    ((500, 223), 224, []),
])
def test_counts_of_windows(size, side, per_level):
    assert len(block_boxes(*size, side)) == 1 + sum(per_level)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(20, 900), height=st.integers(20, 900), side=st.sampled_from([64, 224]))
def test_windows_cover_each_level_at_half_a_window(width, height, side):
    boxes = block_boxes(width, height, side)
    short = min(width, height)
    assert boxes.dtype == np.float32 and (boxes == np.rint(boxes)).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert np.abs(sides[0] - short).max() <= 1
    assert np.abs(boxes[0, :2] + boxes[0, 2:] - [width, height]).max() <= 1
    index, factor = 1, 1.0
    while short / factor >= side:
        size = side * factor
        count = math.prod(math.ceil(round((extent - size) / (size / 2), 6)) + 1 for extent in (width, height))
        level = boxes[index:index + count]
        assert len(level) == count and np.abs(sides[index:index + count] - size).max() <= 1
        for axis, extent in ((0, width), (1, height)):
            starts = np.unique(level[:, axis])
            assert starts[0] == 0 and level[:, axis + 2].max() >= extent - 1
            assert len(starts) == 1 or np.diff(starts).max() <= size / 2 + 1
        index, factor = index + count, factor * 1.5
    assert index == len(boxes)
