"""Class-agnostic proposals for the embedded benchmark, learned from base annotations only.

    ovd train configs/shapes/rpn.py
    ovd proposals configs/shapes/rpn.py work_dirs/rpn/final.pth
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes import *
    from .._base_.models.rpn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.shapes_600 import *

from mmdet.models import DetDataPreprocessor

from ovd.models import ClipResNet
from ovd.models.clip_backbone import CLIP_MEAN_255, CLIP_STD_255

iterations = 300
width = 64

model["data_preprocessor"] = dict(
    type=DetDataPreprocessor, mean=CLIP_MEAN_255, std=CLIP_STD_255, bgr_to_rgb=True, pad_size_divisor=32)
model["backbone"] = dict(type=ClipResNet, pretrained="shapes")
model["neck"] = dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=width, num_outs=4)
model["rpn_head"].update(in_channels=width, feat_channels=32)
model["rpn_head"]["anchor_generator"].update(scales=[7], strides=[4, 8, 16, 32])
model["train_cfg"]["rpn"]["sampler"].update(num=64)
model["test_cfg"]["rpn"].update(nms_pre=600, max_per_img=300)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
train_cfg.update(max_iters=iterations, val_interval=iterations + 1)
param_scheduler[1].update(end=iterations, T_max=iterations - warmup_iterations)
