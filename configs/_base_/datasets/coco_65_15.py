"""COCO 2017 with 65 base and 15 novel classes (the split of Rahman et al.).

What has to be made before training is what coco_48_17.py lists, with 65_15 in place of 48_17.

Not to be confused with files named ".65" in OADP, which are all 65 classes of the 48/17 split.
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

split = "65_15"
train_ann = "annotations/instances_train2017_65_15.json"  # base classes only
val_ann = "annotations/instances_val2017_65_15.json"  # all classes
proposal_store_train = "proposals/train_65_15"
proposal_store_val = "proposals/val_65_15"
region_store = "regions/train_65_15"
region_store_val = "regions/val_65_15"

train_dataloader["dataset"].update(ann_file=train_ann, split=split, region_store=region_store)
test_dataloader["dataset"].update(ann_file=val_ann, split=split)
test_evaluator.update(ann_file=val_ann, split=split)
