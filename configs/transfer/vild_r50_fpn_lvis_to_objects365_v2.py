"""ViLD trained on LVIS's base classes, asked for the classes of Objects365 v2 without any training on them.

We know of no published figure of it that we could check. Not measured here.

    ovd class-embeddings vild --dataset objects365_v2 --pretrained ViT-B/32
    ovd test configs/transfer/vild_r50_fpn_lvis_to_objects365_v2.py \
        work_dirs/vild_r50_fpn_lvis_866_337/final.pth
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.transfer_objects365_v2 import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *

model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
model["test_cfg"]["rcnn"].update(rcnn_test)
