"""The upper bound on the embedded benchmark: the base detector trained on the boxes of all 102 classes.

    ovd train configs/sylph/fcos_joint_shapes.py
    ovd test configs/sylph/fcos_joint_shapes.py work_dirs/fcos_joint_shapes/final.pth

Otherwise as fcos_base_shapes.py.
"""

from mmengine.config import read_base

with read_base():
    from .fcos_base_shapes import *

train_dataloader["dataset"].update(
    ann_file="annotations/instances_train.json", split="annotations/split_supervised.json")
model["bbox_head"].update(split="annotations/split_supervised.json")
