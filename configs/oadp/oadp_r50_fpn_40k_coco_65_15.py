"""OADP on COCO with 65 base and 15 novel classes: objects, blocks and whole images distilled into Faster R-CNN.

We know of no published figure of it on this split. Not yet run here at full size.

    ovd class-embeddings vild74 --dataset coco --pretrained ViT-B/32
    ovd embed-regions configs/oadp/oadp_r50_fpn_40k_coco_65_15.py
    ovd embed-regions configs/oadp/oadp_r50_fpn_40k_coco_65_15.py --what blocks
    ovd embed-regions configs/oadp/oadp_r50_fpn_40k_coco_65_15.py --what globals
    tools/dist_train.sh configs/oadp/oadp_r50_fpn_40k_coco_65_15.py 8
    tools/dist_test.sh configs/oadp/oadp_r50_fpn_40k_coco_65_15.py \
        work_dirs/oadp_r50_fpn_40k_coco_65_15/final.pth 8

Proposals: see configs/_base_/datasets/coco_65_15.py. Classes by 74 prompt templates. The box head's learning rate is
half of the others'; its temperatures are 0.007 in training and 0.01 at test. To start from SoCo as OADP does:
--cfg-options load_from=soco.safetensors model.backbone.style=caffe (docs/checkpoints.md says how that file is made)
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_65_15 import *
    from .._base_.models.oadp_faster_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_40k import *

from mmengine.dataset import InfiniteSampler

region_store = "regions/train_65_15_oadp"
region_store_val = "regions/val_65_15_oadp"
block_store = "blocks/train_65_15"
global_store = "globals/train_65_15"
class_head = "class_heads/vild74_ViT-B-32.safetensors"
regions.update(recipe=dict(kind="adaptive", scales=(1.0,), min_size=4), masked_attention=True, upsample=2)

train_pipeline[1].update(with_mask=False)  # LoadAnnotations
test_pipeline[2].update(with_mask=False)
train_dataloader["sampler"] = dict(type=InfiniteSampler, shuffle=True)
train_dataloader["dataset"].update(
    region_store=region_store, block_store=block_store, global_store=global_store, pipeline=train_pipeline)
test_dataloader["dataset"].update(pipeline=test_pipeline)
test_evaluator.update(metric="bbox")

model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
optim_wrapper["paramwise_cfg"] = dict(custom_keys={"roi_head.bbox_head": dict(lr_mult=0.5)})
