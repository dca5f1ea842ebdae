"""Class-agnostic proposals for the embedded benchmark, learned from base annotations only.

    ovd train configs/shapes/rpn.py
    ovd proposals configs/shapes/rpn.py work_dirs/rpn/final.pth
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes import *
    from .._base_.models.rpn_r50_fpn import *
    from .._base_.models.shapes_tower import *
    from .._base_.runtime import *
    from .._base_.schedules.shapes_600 import *

iterations = 300
for part in ("data_preprocessor", "backbone", "neck"):
    model[part] = tower[part]
model["rpn_head"].update(in_channels=width, feat_channels=32)
model["rpn_head"]["anchor_generator"].update(anchors)
model["train_cfg"]["rpn"]["sampler"].update(num=64)
model["test_cfg"]["rpn"].update(nms_pre=600, max_per_img=300)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
train_cfg.update(max_iters=iterations, val_interval=iterations + 1)
param_scheduler[1].update(end=iterations, T_max=iterations - warmup_iterations)
