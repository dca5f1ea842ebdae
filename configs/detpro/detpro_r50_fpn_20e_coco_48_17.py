"""DetPro on COCO with 48 base and 17 novel classes: ViLD* whose prompts are learned from base classes.

We know of no published figure of it on this split. Not yet run here at full size.

    ovd proposals configs/detpro/detpro_r50_fpn_20e_coco_48_17.py --from-annotations --subset train \
        --out data/coco/proposals/ground_truth_48_17
    ovd embed-regions configs/detpro/detpro_r50_fpn_20e_coco_48_17.py \
        --proposals data/coco/proposals/ground_truth_48_17 --out data/coco/regions/ground_truth_48_17 \
        --cfg-options regions.top_k=none
    ovd learn-prompts configs/detpro/detpro_r50_fpn_20e_coco_48_17.py
    tools/dist_train.sh configs/detpro/detpro_r50_fpn_20e_coco_48_17.py 8
    tools/dist_test.sh configs/detpro/detpro_r50_fpn_20e_coco_48_17.py \
        work_dirs/detpro_r50_fpn_20e_coco_48_17/final.pth 8 --eval bbox segm

Proposals and their embeddings are those of vild_star_r50_fpn_20e_coco_48_17.py, whose commands come before these; to
start from SoCo as DetPro does, see there.
"""

from mmengine.config import read_base

with read_base():
    from ..vild_star.vild_star_r50_fpn_20e_coco_48_17 import *

class_head = "class_heads/detpro_48_17.safetensors"
prompts = dict(ground_truth_store="regions/ground_truth_48_17")
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head)
