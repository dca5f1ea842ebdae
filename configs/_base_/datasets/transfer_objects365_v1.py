"""Objects365 v1 val as a target of a detector trained elsewhere.

Settings of DetPro's transfer, whose file this is by its name: 1333 x 800, scores from 0.003, 300 detections an image,
all of which count. Expects in data_root: val/, annotations/objects365_val.json. Should the file have boxes that are
refused, `ovd build-zsl --split objects365_v1 --subset val --val-ann objects365_val.json --on-error skip` writes one
without them: --cfg-options val_ann=annotations/objects365_val_objects365_v1.json
"""

from mmengine.config import read_base

with read_base():
    from .coco import *

from mmengine.runner import TestLoop

data_root = "data/objects365_v1"
split = "objects365_v1"
val_ann = "annotations/objects365_val.json"
val_prefix = "val"

test_pipeline = [  # no masks in these annotations
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=Resize, scale=(1333, 800), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = None
test_dataloader["dataset"].update(
    data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix), pipeline=test_pipeline)
test_evaluator.update(
    data_root=data_root, ann_file=val_ann, split=split, metric="bbox", max_dets=300)
test_cfg = dict(type=TestLoop)
rcnn_test = dict(score_thr=0.003, max_per_img=300)
