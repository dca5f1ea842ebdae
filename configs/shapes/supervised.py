"""The supervised upper bound on the embedded benchmark: the same detector, shown the boxes of all 102 classes.

    ovd train configs/shapes/supervised.py
"""

from mmengine.config import read_base

with read_base():
    from .vild_text import *

train_dataloader["dataset"].update(
    ann_file="annotations/instances_train.json", split="annotations/split_supervised.json")
model["roi_head"]["bbox_head"]["classifier"].update(split="annotations/split_supervised.json")
