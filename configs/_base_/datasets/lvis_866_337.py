"""LVIS v1 with its 866 common and frequent classes as base and its 337 rare ones as novel.

Expects in data_root: train2017/, val2017/ (the images of COCO), annotations/lvis_v1_{train,val}.json. LVIS's validation
images lie in both folders: an image's path comes from its coco_url. Before training:

    ovd build-zsl --split 866_337
    ovd class-embeddings vild --dataset lvis_v1 --pretrained ViT-B/32
    ovd train configs/rpn/lvis_866_337.py
    ovd proposals configs/rpn/lvis_866_337.py work_dirs/rpn_lvis_866_337/final.pth
    ovd embed-regions configs/vild/vild_r50_fpn_lvis_866_337.py

Images with base classes that fewer than one in 1000 images have are repeated (repeat factor sampling).
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

from mmengine.dataset import ClassBalancedDataset

data_root = "data/lvis_v1"
split = "866_337"
train_ann = "annotations/lvis_v1_train_866_337.json"  # base classes only
support_ann = "annotations/lvis_v1_train.json"  # shots are drawn from it; it has all classes
val_ann = "annotations/lvis_v1_val_866_337.json"  # all classes
train_prefix = ""
val_prefix = ""
proposal_store_train = "proposals/train_866_337"
proposal_store_val = "proposals/val_866_337"
region_store = "regions/train_866_337"
region_store_val = "regions/val_866_337"

train_dataloader["dataset"].update(
    data_root=data_root, ann_file=train_ann, split=split, region_store=region_store, data_prefix=dict(img=train_prefix))
train_dataloader["dataset"] = dict(
    type=ClassBalancedDataset, oversample_thr=1e-3, dataset=train_dataloader["dataset"])
test_dataloader["dataset"].update(
    data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix))
test_evaluator.update(data_root=data_root, ann_file=val_ann, split=split, protocol="lvis")
