"""The cascade of DetPro: ViLD-ensemble in each of three stages, and the whole backbone trained as in ViLD*."""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble_cascade_r50_fpn import *

model["backbone"].update(frozen_stages=-1, norm_cfg=norm_cfg)
