"""Meta-training on the embedded benchmark in the manner of ONCE: codes are plain means over shots.

    ovd train configs/sylph/sylph_once_shapes.py

Otherwise as sylph_fa_shapes.py.
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_shapes import *

once.update(in_channels=width, out_channels=code_width)
model["code_generator"] = once
