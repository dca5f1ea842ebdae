"""The cascade of DetPro: ViLD-ensemble in each of three stages; backbone and mask head as in ViLD*."""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble_cascade_r50_fpn import *

model["backbone"].update(frozen_stages=-1, norm_cfg=norm_cfg)
model["roi_head"]["mask_head"].update(norm_cfg=None)
