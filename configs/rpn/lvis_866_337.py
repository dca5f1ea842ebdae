"""Class-agnostic proposals on ResNet-50 FPN, learned from the 866 base classes of LVIS only.

    tools/dist_train.sh configs/rpn/lvis_866_337.py 8
    ovd proposals configs/rpn/lvis_866_337.py work_dirs/rpn_lvis_866_337/final.pth

A network trained on all classes would have seen the novel ones as foreground. For COCO's splits this one is no way
around that: some base classes of LVIS are among COCO's novel ones.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.rpn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_1x import *

work_dir = "work_dirs/rpn_lvis_866_337"
train_dataloader["dataset"] = train_dataloader["dataset"]["dataset"]  # "object" is frequent enough: nothing is repeated
train_dataloader["dataset"].update(region_store=None, pipeline=proposals_only_pipeline)
test_evaluator = None  # recall is measured by the stage that extracts the proposals
