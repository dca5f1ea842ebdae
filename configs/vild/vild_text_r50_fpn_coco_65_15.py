"""ViLD-text: learns from base annotations only, without distillation: what class names alone can do.

We know of no published figure of it on this split. Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_text_r50_fpn_coco_65_15.py 8
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_coco_65_15 import *

model["mode"] = "text"
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
