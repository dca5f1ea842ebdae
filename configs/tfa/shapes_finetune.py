"""TFA on the embedded benchmark, second stage: the classifier of all 102 classes learns from K shots of each.

    ovd shots sample --annotations data/shapes/annotations/instances_train.json \
        --image-root data/shapes/train2017 --split data/shapes/annotations/split.json --shots 5 --seed 0 \
        --out data/shapes/shots/5shot_seed0.shots.json
    ovd shots annotations data/shapes/shots/5shot_seed0.shots.json --split data/shapes/annotations/split.json \
        --out data/shapes/shots/5shot_seed0.json
    ovd head-surgery work_dirs/shapes_base/final.pth --split data/shapes/annotations/split.json \
        --out work_dirs/shapes_base/init.pth
    ovd train configs/tfa/shapes_finetune.py
    ovd test configs/tfa/shapes_finetune.py work_dirs/shapes_finetune/final.pth

Other shots: --cfg-options train_dataloader.dataset.ann_file=shots/1shot_seed0.json

First stage: shapes_base.py. Negatives are regions that overlap a shot by 0.1 to 0.5, as in Fast R-CNN (sec. 2.3): the
other objects of a shot's image have no annotation, and learning them as background costs 4 points of novel AP50.
Settings were chosen on base classes alone: trained on 54 of them, 18 added by 5 shots each have AP50 94.7, the 54 96.8.
"""

from mmengine.config import read_base

with read_base():
    from .shapes_base import *
    from .._base_.schedules.tfa_shapes import *

from ovd.data.fine_tuning import FineTuningDataset

load_from = "work_dirs/shapes_base/init.pth"

model["frozen"] = all_but_last_layers
model["roi_head"]["bbox_head"].update(num_classes=102)
model["train_cfg"]["rcnn"]["assigner"].update(neg_iou_thr=(0.1, 0.5))
train_dataloader["dataset"].update(type=FineTuningDataset, ann_file="shots/5shot_seed0.json", learn="all")
