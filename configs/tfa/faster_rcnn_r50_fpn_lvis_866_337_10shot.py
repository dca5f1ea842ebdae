"""TFA's second stage: classifier and regressor learn from 10 shots of each class, all else is frozen.

No figure of this split and schedule is known to us.
Not yet run here at full size.

    ovd shots sample --annotations data/lvis_v1/annotations/lvis_v1_train.json \
        --image-root data/lvis_v1 --split 866_337 --shots 10 --seed 0 --with-replacement \
        --out data/lvis_v1/shots/866_337_10shot_seed0.shots.json
    ovd shots annotations data/lvis_v1/shots/866_337_10shot_seed0.shots.json --split 866_337 \
        --out data/lvis_v1/shots/866_337_10shot_seed0.json
    ovd head-surgery work_dirs/faster_rcnn_r50_fpn_lvis_866_337_base/final.pth --split 866_337 \
        --out work_dirs/faster_rcnn_r50_fpn_lvis_866_337_base/init.pth
    tools/dist_train.sh configs/tfa/faster_rcnn_r50_fpn_lvis_866_337_10shot.py 8
    ovd test configs/tfa/faster_rcnn_r50_fpn_lvis_866_337_10shot.py \
        work_dirs/faster_rcnn_r50_fpn_lvis_866_337_10shot/final.pth

First stage: faster_rcnn_r50_fpn_lvis_866_337_base.py. The authors' own shots: ovd shots import.
Of a class with fewer than 10 boxes, say how many are taken (--shots-of), or repeat them (--with-replacement).
"""

from mmengine.config import read_base

with read_base():
    from .faster_rcnn_r50_fpn_lvis_866_337_base import *

from ovd.data.fine_tuning import FineTuningDataset

load_from = "work_dirs/faster_rcnn_r50_fpn_lvis_866_337_base/init.pth"
iterations = 160_000

model["frozen"] = all_but_last_layers
model["roi_head"]["bbox_head"].update(num_classes=1203)
train_dataloader["dataset"] = train_dataloader["dataset"]["dataset"]  # balanced as it is
train_dataloader["dataset"].update(
    type=FineTuningDataset, ann_file="shots/866_337_10shot_seed0.json", learn="all")
optim_wrapper["optimizer"].update(lr=0.001)
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations, milestones=[144_000])
