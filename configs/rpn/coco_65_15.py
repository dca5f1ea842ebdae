"""Class-agnostic proposals on ResNet-50 FPN, learned from the 65 base classes of COCO only.

    tools/dist_train.sh configs/rpn/coco_65_15.py 8
    ovd proposals configs/rpn/coco_65_15.py work_dirs/rpn_coco_65_15/final.pth

A network trained on all classes would have seen the novel ones as foreground.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_65_15 import *
    from .._base_.models.rpn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_1x import *

work_dir = "work_dirs/rpn_coco_65_15"
train_dataloader["dataset"].update(region_store=None, pipeline=proposals_only_pipeline)
test_evaluator = None  # recall is measured by the stage that extracts the proposals
