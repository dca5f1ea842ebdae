"""TFA-FCOS on COCO 60/20: all class rows, distances and centre-ness learn from 10 shots of each class.

Backbone and both towers of Sylph's base detector are frozen. No figure is known to us; not yet run here at full size.

    ovd head-surgery work_dirs/fcos_base_coco_60_20/final.pth --split 60_20 \
        --out work_dirs/fcos_base_coco_60_20/init.pth
    tools/dist_train.sh configs/tfa/fcos_r50_fpn_coco_60_20_10shot.py 8
    ovd test configs/tfa/fcos_r50_fpn_coco_60_20_10shot.py work_dirs/fcos_r50_fpn_coco_60_20_10shot/final.pth

First stage: configs/sylph/fcos_base_coco_60_20.py. The shots are made as for faster_rcnn_r50_fpn_coco_60_20_10shot.py.
Its simplified form is fcos_r50_fpn_coco_60_20_10shot_novel.py.
"""

from mmengine.config import read_base

with read_base():
    from ..sylph.fcos_base_coco_60_20 import *

from ovd.data.fine_tuning import FineTuningDataset
from ovd.models import FineTunedFCOSHead

load_from = "work_dirs/fcos_base_coco_60_20/init.pth"
iterations = 30_000

model["frozen"] = ["backbone", "neck", "bbox_head.*_convs"]
model["bbox_head"].update(type=FineTunedFCOSHead, learn="all")
train_dataloader.update(batch_size=2)
train_dataloader["dataset"].update(type=FineTuningDataset, ann_file="shots/60_20_10shot_seed0.json", learn="all")
optim_wrapper["optimizer"].update(lr=0.001)
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations, milestones=[20_000, 26_000])
auto_scale_lr.update(base_batch_size=16)
