"""TFA's second stage: classifier and regressor learn from 10 shots of each class, all else is frozen.

MMFewShot's README has base / novel AP 35.2 / 10.4, of 30 shots 36.7 / 14.7, with ResNet-101.
Not yet run here at full size.

    ovd shots sample --annotations data/coco/annotations/instances_train2017.json \
        --image-root data/coco/train2017 --split 60_20 --shots 10 --seed 0 \
        --out data/coco/shots/60_20_10shot_seed0.shots.json
    ovd shots annotations data/coco/shots/60_20_10shot_seed0.shots.json --split 60_20 \
        --out data/coco/shots/60_20_10shot_seed0.json
    ovd head-surgery work_dirs/faster_rcnn_r50_fpn_coco_60_20_base/final.pth --split 60_20 \
        --out work_dirs/faster_rcnn_r50_fpn_coco_60_20_base/init.pth
    tools/dist_train.sh configs/tfa/faster_rcnn_r50_fpn_coco_60_20_10shot.py 8
    ovd test configs/tfa/faster_rcnn_r50_fpn_coco_60_20_10shot.py \
        work_dirs/faster_rcnn_r50_fpn_coco_60_20_10shot/final.pth

First stage: faster_rcnn_r50_fpn_coco_60_20_base.py. The authors' own shots: ovd shots import.
30 shots take 240,000 iterations:
--cfg-options train_dataloader.dataset.ann_file=shots/60_20_30shot_seed0.json train_cfg.max_iters=240000
param_scheduler.1.end=240000 param_scheduler.1.milestones=[216000]
"""

from mmengine.config import read_base

with read_base():
    from .faster_rcnn_r50_fpn_coco_60_20_base import *

from ovd.data.fine_tuning import FineTuningDataset

load_from = "work_dirs/faster_rcnn_r50_fpn_coco_60_20_base/init.pth"
iterations = 160_000

model["frozen"] = all_but_last_layers
model["roi_head"]["bbox_head"].update(num_classes=80)
train_dataloader["dataset"].update(
    type=FineTuningDataset, ann_file="shots/60_20_10shot_seed0.json", learn="all")
optim_wrapper["optimizer"].update(lr=0.001)
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations, milestones=[144_000])
