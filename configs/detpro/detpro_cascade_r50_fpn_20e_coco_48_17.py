"""DetPro on COCO with 48 base and 17 novel classes with a cascade of three stages, each an ensemble.

We know of no published figure of it on this split. Not yet run here at full size.

    tools/dist_train.sh configs/detpro/detpro_cascade_r50_fpn_20e_coco_48_17.py 8
    tools/dist_test.sh configs/detpro/detpro_cascade_r50_fpn_20e_coco_48_17.py \
        work_dirs/detpro_cascade_r50_fpn_20e_coco_48_17/final.pth 8 --eval bbox segm

Class head, proposals and embeddings are those of detpro_r50_fpn_20e_coco_48_17.py.
"""

from mmengine.config import read_base

with read_base():
    from .detpro_r50_fpn_20e_coco_48_17 import *
    from .._base_.models.vild_star_cascade_r50_fpn import *

model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
