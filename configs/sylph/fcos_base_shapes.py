"""Base training of Sylph's FCOS on the embedded benchmark: 72 base classes, boxes of whatever is an object.

Base AP50 is 92.8 (AP 74.4) after 8 minutes on a busy core; a tower of width 64 reaches 43.8, one of 128 79.2.

    ovd train configs/sylph/fcos_base_shapes.py
    ovd test configs/sylph/fcos_base_shapes.py work_dirs/fcos_base_shapes/final.pth
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes import *
    from .._base_.models.shapes_tower import *
    from .._base_.models.sylph_fcos_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.shapes_600 import *

strides = [8, 16, 32]
code_width = 256
for part in ("data_preprocessor", "backbone", "neck"):
    model[part] = tower[part]
model["data_preprocessor"].update(pad_mask=False)
model["neck"].update(start_level=1, num_outs=len(strides))
model["bbox_head"].update(
    in_channels=width, feat_channels=code_width, stacked_convs=2, strides=strides, split=split, data_root=data_root,
    regress_ranges=((-1, 24), (24, 48), (48, 1e8)), norm_cfg=dict(type="GN", num_groups=16))
text_only_pipeline[1].update(with_mask=False)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
test_evaluator["metric"] = "bbox"
