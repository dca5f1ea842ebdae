"""ViLD* trained on LVIS's base classes, asked for the classes of PASCAL VOC 2007 without any training on them.

We know of no published figure of it that we could check. Not measured here. Text and image head weigh 0.6 and 0.4 for
all classes, as in DetPro. A ViLD-ensemble is tested by the same config, with the class head it was trained with
(--class-head).

    ovd voc-to-coco
    ovd class-embeddings vild74 --dataset voc --pretrained ViT-B/32
    ovd test configs/transfer/vild_star_r50_fpn_lvis_to_voc.py \
        work_dirs/vild_star_r50_fpn_20e_lvis_866_337/final.pth
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.transfer_voc import *
    from .._base_.models.vild_star_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *

class_head = "class_heads/vild74_ViT-B-32.safetensors"
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
model["test_cfg"]["rcnn"].update(rcnn_test, fixed_lambda=0.6)
