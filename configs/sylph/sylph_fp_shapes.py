"""Meta-training on the embedded benchmark of the code generator and the classification tower.

    ovd train configs/sylph/sylph_fp_shapes.py

Otherwise as sylph_fa_shapes.py. Rows of the base checkpoint do not fit the new tower's features, so base classes need
codes too.
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_shapes import *

model["trainable"] = ["bbox_head.cls_convs"]
