"""ViLD-ensemble on COCO with 65 base and 15 novel classes: a text head and an image head, whose scores are fused.

We know of no published figure of it on this split. OADP's schedule. Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_ensemble_r50_fpn_coco_65_15.py 8
    tools/dist_test.sh configs/vild/vild_ensemble_r50_fpn_coco_65_15.py \
        work_dirs/vild_ensemble_r50_fpn_coco_65_15/final.pth 8 --eval bbox segm

What must be made before: see configs/_base_/datasets/coco_65_15.py.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_65_15 import *
    from .._base_.models.vild_ensemble_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_40k import *

from mmengine.dataset import InfiniteSampler

train_dataloader["sampler"] = dict(type=InfiniteSampler, shuffle=True)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
