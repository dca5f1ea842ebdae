"""ViLD trained on LVIS's base classes, asked for the classes of COCO without any training on them.

The paper's R50 has box AP 36.6 (its abstract). Not measured here.

    ovd class-embeddings vild --dataset coco --pretrained ViT-B/32
    ovd test configs/transfer/vild_r50_fpn_lvis_to_coco.py \
        work_dirs/vild_r50_fpn_lvis_866_337/final.pth
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.transfer_coco import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *

model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
model["test_cfg"]["rcnn"].update(rcnn_test)
