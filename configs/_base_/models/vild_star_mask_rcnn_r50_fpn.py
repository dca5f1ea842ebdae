"""ViLD*, DetPro's re-implementation of ViLD-ensemble, which DetPro's detector shares: the whole backbone is trained.

Statistics of the backbone's batch normalisation stay those of the initialisation, its affine part is trained; the mask
head has no normalisation. Starts from ImageNet unless a checkpoint is given; DetPro and its ViLD* start from SoCo,
backbone, FPN and heads, and take the stride of a block in its first convolution (caffe style):

    --cfg-options load_from=soco.safetensors model.backbone.style=caffe

That file is made with ovd convert-checkpoint: see docs/checkpoints.md. What was trained so is tested with that style
too, and so are DetPro's published detectors.
"""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble_mask_rcnn_r50_fpn import *

model["backbone"].update(frozen_stages=-1, norm_cfg=norm_cfg)
model["roi_head"]["mask_head"].update(norm_cfg=None)
