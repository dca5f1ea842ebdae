"""Meta-training on the embedded benchmark of the code generator and the classification tower.

    ovd train configs/sylph/sylph_fp_shapes.py
    ovd fewshot-eval configs/sylph/sylph_fp_shapes.py work_dirs/sylph_fp_shapes/final.pth --methods codes \
        --base-shots 10

Otherwise as sylph_fa_shapes.py. Rows of the base checkpoint do not fit the new tower's features, so base classes are
made of boxes too.
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_shapes import *

model["trainable"] = ["bbox_head.cls_convs"]
