"""ViLD*, DetPro's re-implementation of ViLD-ensemble, which DetPro's detector shares: the whole backbone is trained.

Statistics of the backbone's batch normalisation stay those of the initialisation, its affine part is trained. Starts
from ImageNet unless a checkpoint is given; DetPro and its ViLD* start from SoCo, backbone, FPN and heads, with the
stride of a block on its first convolution (caffe style):

    --cfg-options load_from=soco_star_mask_rcnn_r50_fpn_400e.pth model.backbone.style=caffe
"""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble_mask_rcnn_r50_fpn import *

model["backbone"].update(frozen_stages=-1, norm_cfg=norm_cfg)
