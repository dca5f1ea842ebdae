"""Sylph's upper bound on COCO: the base detector trained on all 80 classes.

    tools/dist_train.sh configs/sylph/fcos_joint_coco.py 8

Otherwise as fcos_base_coco_60_20.py. All classes count as base; those of the novel group are in the per-class figures.
"""

from mmengine.config import read_base

with read_base():
    from .fcos_base_coco_60_20 import *

split = "coco"
train_ann = "annotations/instances_train2017.json"
val_ann = "annotations/instances_val2017.json"
train_dataloader["dataset"].update(ann_file=train_ann, split=split)
test_dataloader["dataset"].update(ann_file=val_ann, split=split)
test_evaluator.update(ann_file=val_ann, split=split)
model["bbox_head"].update(split=split)
