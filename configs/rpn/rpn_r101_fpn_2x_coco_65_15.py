"""Class-agnostic proposals on ResNet-101 FPN in 24 epochs, learned from the 65 base classes of COCO only.

    tools/dist_train.sh configs/rpn/rpn_r101_fpn_2x_coco_65_15.py 8
    ovd proposals configs/rpn/rpn_r101_fpn_2x_coco_65_15.py work_dirs/rpn_r101_fpn_2x_coco_65_15/final.pth

The network of rpn_r101_fpn_2x_coco.py without its leakage: that one has seen the 15 novel classes as foreground.
"""

from mmengine.config import read_base

with read_base():
    from .coco_65_15 import *
    from .._base_.schedules.sgd_2x_mmdet import *

work_dir = "work_dirs/rpn_r101_fpn_2x_coco_65_15"
proposal_store_train = "proposals/train_65_15_r101"
proposal_store_val = "proposals/val_65_15_r101"
proposals.update(max_per_image=1000)
model["backbone"].update(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101"))
