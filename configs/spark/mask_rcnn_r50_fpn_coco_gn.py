"""For one GPU: the backbone's batch normalisation frozen at its pre-training's statistics, group normalisation in FPN
and heads, which does not depend on the batch. Two images a batch; the rate is scaled to that.

    tools/train.py configs/spark/mask_rcnn_r50_fpn_coco_gn.py

90,000 such iterations see an eighth of the images of the original; more: --cfg-options train_cfg.max_iters=180000
param_scheduler.1.milestones="[120000,160000]" param_scheduler.1.end=180000. Not yet run here at full size.
"""

from mmengine.config import read_base

with read_base():
    from .mask_rcnn_r50_fpn_coco import *

model["backbone"].update(frozen_bn)
model["neck"].update(norm_cfg=group_norm)
model["roi_head"]["bbox_head"].update(norm_cfg=group_norm)
model["roi_head"]["mask_head"].update(norm_cfg=group_norm)
auto_scale_lr.update(enable=True)
custom_hooks = []  # no batch normalisation is trained
