"""For one GPU, the plainest: frozen batch normalisation in the backbone, no normalisation in FPN and heads.

    tools/train.py configs/spark/mask_rcnn_r50_fpn_coco_frozen_bn.py

Two images a batch; the rate is scaled to that. Not yet run here at full size.
"""

from mmengine.config import read_base

with read_base():
    from .mask_rcnn_r50_fpn_coco_gn import *

model["neck"].update(norm_cfg=None)
model["roi_head"]["bbox_head"].update(norm_cfg=None)
model["roi_head"]["mask_head"].update(norm_cfg=None)
