"""PASCAL VOC 2007 test as a target of a detector trained elsewhere.

Settings of DetPro's transfer: 1000 x 600, scores from 0.05, 100 detections an image. Expects in data_root:
VOCdevkit/VOC2007/, and what `ovd voc-to-coco` writes of it. Figures: all/voc07_ap50 is what papers report on VOC2007
(11 recalls), all/voc_ap50 the area under the curve, all/ap50 is COCO's (101 recalls).
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

from mmengine.runner import TestLoop

from ovd.evaluation.voc import VocMetric

data_root = "data/voc"
split = "voc"
val_ann = "annotations/voc2007_test.json"
val_prefix = "VOCdevkit"

test_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=Resize, scale=(1000, 600), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = None
test_dataloader["dataset"].update(
    data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix), pipeline=test_pipeline)
test_evaluator.update(
    type=VocMetric, data_root=data_root, ann_file=val_ann, split=split, metric="bbox")
test_cfg = dict(type=TestLoop)
rcnn_test = dict(score_thr=0.05, max_per_img=100)
