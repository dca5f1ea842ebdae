"""COCO 2017 with 48 base and 17 novel classes (the split of Bansal et al. that OVR-CNN, ViLD and OADP report).

Expects in data_root: train2017/, val2017/, annotations/instances_{train,val}2017.json. Before training:

    ovd build-zsl --split 48_17
    ovd class-embeddings vild --dataset coco --pretrained ViT-B/32
    ovd train configs/rpn/coco_48_17.py
    ovd proposals configs/rpn/coco_48_17.py work_dirs/rpn_coco_48_17/final.pth
    ovd embed-regions configs/vild/vild_r50_fpn_coco_48_17.py

Training sees base annotations only (107,761 of 118,287 images have one). Evaluation is over all 5,000 validation
images; code that leaves out the 164 without an annotation of the 65 classes gets slightly higher figures.
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

split = "48_17"
train_ann = "annotations/instances_train2017_48_17.json"  # base classes only
val_ann = "annotations/instances_val2017_48_17.json"  # all classes
proposal_store_train = "proposals/train_48_17"
proposal_store_val = "proposals/val_48_17"
region_store = "regions/train_48_17"
region_store_val = "regions/val_48_17"

train_dataloader["dataset"].update(ann_file=train_ann, split=split, region_store=region_store)
test_dataloader["dataset"].update(ann_file=val_ann, split=split)
test_evaluator.update(ann_file=val_ann, split=split)
