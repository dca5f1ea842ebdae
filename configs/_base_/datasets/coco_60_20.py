"""COCO 2017 with the 20 classes of PASCAL VOC as novel ones and the other 60 as base: the split of few-shot detection.

Expects in data_root: train2017/, val2017/, annotations/instances_{train,val}2017.json. Before training:

    ovd build-zsl --split 60_20

Training sees base annotations only; evaluation is over all 5,000 validation images.
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

split = "60_20"
train_ann = "annotations/instances_train2017_60_20.json"  # base classes only
val_ann = "annotations/instances_val2017_60_20.json"  # all classes

train_dataloader["dataset"].update(ann_file=train_ann, split=split, region_store=None)
test_dataloader["dataset"].update(ann_file=val_ann, split=split)
test_evaluator.update(ann_file=val_ann, split=split)
