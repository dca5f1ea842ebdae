"""ViLD on COCO with 65 base and 15 novel classes; see vild_r50_fpn_coco_48_17.py. Not yet run here at full size.

We know of no published figure of ViLD on this split.

    tools/dist_train.sh configs/vild/vild_r50_fpn_coco_65_15.py 8
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_65_15 import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_40k import *

from mmengine.dataset import InfiniteSampler

train_dataloader["sampler"] = dict(type=InfiniteSampler, shuffle=True)
model["mode"] = "both"
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
