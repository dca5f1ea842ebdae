"""Sylph's upper bound on LVIS v1: the base detector trained on all 1203 classes; rare ones count as ap of "rare".

    tools/dist_train.sh configs/sylph/fcos_joint_lvis_v1.py 8

Otherwise as fcos_base_lvis_866_337.py.
"""

from mmengine.config import read_base

with read_base():
    from .fcos_base_lvis_866_337 import *

split = "lvis_v1"
train_ann = "annotations/lvis_v1_train.json"
val_ann = "annotations/lvis_v1_val.json"
train_dataloader["dataset"]["dataset"].update(ann_file=train_ann, split=split)
test_dataloader["dataset"].update(ann_file=val_ann, split=split)
test_evaluator.update(ann_file=val_ann, split=split)
model["bbox_head"].update(split=split)
