"""COCO 2017 val, all 80 classes, as a target of a detector trained elsewhere.

Settings of DetPro's transfer: 1333 x 800, scores from 0.01, 100 detections an image. Expects in data_root: val2017/,
annotations/instances_val2017.json.
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

from mmengine.runner import TestLoop

split = "coco_transfer"
train_dataloader = None
test_dataloader["dataset"].update(split=split)
test_evaluator.update(split=split)
test_cfg = dict(type=TestLoop)
rcnn_test = dict(score_thr=0.01, max_per_img=100)
