"""ViLD* on COCO with 48 base and 17 novel classes: DetPro's re-implementation of ViLD-ensemble.

We know of no published figure of it on this split. Not yet run here at full size.

    ovd class-embeddings vild74 --dataset coco --pretrained ViT-B/32
    ovd train configs/rpn/rpn_r101_fpn_2x_coco_48_17.py
    ovd proposals configs/rpn/rpn_r101_fpn_2x_coco_48_17.py work_dirs/rpn_r101_fpn_2x_coco_48_17/final.pth
    ovd embed-regions configs/vild_star/vild_star_r50_fpn_20e_coco_48_17.py
    tools/dist_train.sh configs/vild_star/vild_star_r50_fpn_20e_coco_48_17.py 8
    tools/dist_test.sh configs/vild_star/vild_star_r50_fpn_20e_coco_48_17.py \
        work_dirs/vild_star_r50_fpn_20e_coco_48_17/final.pth 8 --eval bbox segm

Differs from ViLD-ensemble in its 74 prompt templates, 1000 cached proposals an image (of a ResNet-101 trained on base
classes) instead of 300, a backbone of which every stage is trained, one decay of the learning rate, and in where it
starts: from SoCo, backbone and heads, with --cfg-options load_from=soco.safetensors model.backbone.style=caffe
(docs/checkpoints.md says how that file is made)
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_48_17 import *
    from .._base_.models.vild_star_mask_rcnn_r50_fpn import *
    from .._base_.pipelines.six_scales import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_20e_detpro import *

proposal_store_train = "proposals/train_48_17_r101"
proposal_store_val = "proposals/val_48_17_r101"
region_store = "regions/train_48_17_r101"
region_store_val = "regions/val_48_17_r101"
class_head = "class_heads/vild74_ViT-B-32.safetensors"
proposals.update(max_per_image=1000)
regions.update(top_k=1000)

train_dataloader["dataset"].update(region_store=region_store, pipeline=train_pipeline)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
