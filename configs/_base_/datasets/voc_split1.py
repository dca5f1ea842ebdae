"""PASCAL VOC 2007 and 2012 with 15 base and 5 novel classes (the first of three splits), tested on 2007's test images.

Expects in data_root: VOCdevkit/VOC2007/ and VOCdevkit/VOC2012/. Before training:

    ovd voc-to-coco --sets 2007_trainval 2012_trainval --out data/voc/annotations/voc0712_trainval.json
    ovd voc-to-coco

The file has all classes: datasets say which of them are learned. novel/voc07_ap50 is the figure that papers report. For
another split: --cfg-options split=voc_split2
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

from ovd.data.fine_tuning import FineTuningDataset
from ovd.evaluation.voc import VocMetric

data_root = "data/voc"
split = "voc_split1"
train_ann = "annotations/voc0712_trainval.json"
val_ann = "annotations/voc2007_test.json"
train_prefix = "VOCdevkit"
val_prefix = "VOCdevkit"

text_only_pipeline[1].update(with_mask=False)
test_pipeline[2].update(with_mask=False)
train_dataloader["dataset"].update(
    type=FineTuningDataset, learn="base", data_root=data_root, ann_file=train_ann, split=split, region_store=None,
    data_prefix=dict(img=train_prefix), pipeline=text_only_pipeline)
test_dataloader["dataset"].update(
    data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix), pipeline=test_pipeline)
test_evaluator.update(type=VocMetric, data_root=data_root, ann_file=val_ann, split=split, metric="bbox")
