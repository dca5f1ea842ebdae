"""Proposals on ResNet-101 FPN of all 80 classes of COCO, in 24 epochs: the network that OpenSet-dev starts from.

It has been trained on the novel classes of both COCO splits, as foreground without a name: figures made with its
proposals are not comparable with those of a network that has seen base classes only (rpn_r101_fpn_2x_coco_48_17.py).
mmdet publishes its weights; they have an AR@1000 of 60.2 (mmdet 2.x, configs/rpn/README.md):

    ovd convert-checkpoint rpn_r101_fpn_2x_coco_20200131-24e3db1a.pth rpn_r101.safetensors --from mmdet2 --to ovd-rpn
    ovd proposals configs/rpn/rpn_r101_fpn_2x_coco.py rpn_r101.safetensors

To train it anew: tools/dist_train.sh configs/rpn/rpn_r101_fpn_2x_coco.py 8
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco import *
    from .._base_.models.rpn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_2x_mmdet import *

proposal_store_train = "proposals/train_seen_all"
proposal_store_val = "proposals/val_seen_all"
proposals.update(max_per_image=1000)
model["backbone"].update(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101"))
train_dataloader["dataset"].update(region_store=None, pipeline=proposals_only_pipeline)
test_evaluator = None  # recall is measured by the stage that extracts the proposals
