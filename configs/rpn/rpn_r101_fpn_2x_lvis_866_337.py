"""Class-agnostic proposals on ResNet-101 FPN in 24 epochs, learned from the 866 base classes of LVIS only.

    tools/dist_train.sh configs/rpn/rpn_r101_fpn_2x_lvis_866_337.py 8
    ovd proposals configs/rpn/rpn_r101_fpn_2x_lvis_866_337.py work_dirs/rpn_r101_fpn_2x_lvis_866_337/final.pth

DetPro's proposals for LVIS come from such a network, trained on base classes (its README). Its published base-class
network has an AR@100 of 36.5, the ViLD paper's 39.3, and a user's own training gave 9.5 (dyabel/detpro, issues 27 and
38): look at the recall that `ovd proposals` prints before embedding anything.
"""

from mmengine.config import read_base

with read_base():
    from .lvis_866_337 import *
    from .._base_.schedules.sgd_2x_mmdet import *

work_dir = "work_dirs/rpn_r101_fpn_2x_lvis_866_337"
proposal_store_train = "proposals/train_866_337_r101"
proposal_store_val = "proposals/val_866_337_r101"
proposals.update(max_per_image=1000)
model["backbone"].update(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101"))
