"""TFA's second stage: classifier and regressor learn from 10 shots of each class, all else is frozen.

MMFewShot's README has novel AP50 41.9, 49.0, 49.9, 58.0, 58.4 of 1, 2, 3, 5, 10 shots and base AP50
79.7, with ResNet-101.
Not yet run here at full size.

    ovd shots sample --annotations data/voc/annotations/voc0712_trainval.json \
        --image-root data/voc/VOCdevkit --split voc_split1 --shots 10 --seed 0 \
        --out data/voc/shots/voc_split1_10shot_seed0.shots.json
    ovd shots annotations data/voc/shots/voc_split1_10shot_seed0.shots.json --split voc_split1 \
        --out data/voc/shots/voc_split1_10shot_seed0.json
    ovd head-surgery work_dirs/faster_rcnn_r50_fpn_voc_split1_base/final.pth --split voc_split1 \
        --out work_dirs/faster_rcnn_r50_fpn_voc_split1_base/init.pth
    tools/dist_train.sh configs/tfa/faster_rcnn_r50_fpn_voc_split1_10shot.py 8
    ovd test configs/tfa/faster_rcnn_r50_fpn_voc_split1_10shot.py \
        work_dirs/faster_rcnn_r50_fpn_voc_split1_10shot/final.pth

First stage: faster_rcnn_r50_fpn_voc_split1_base.py. The authors' own shots: ovd shots import.
1, 2, 3 and 5 shots take 4,000, 8,000, 12,000 and 20,000 iterations, with decays after 3,000, 7,000, 11,000 and 18,000:
--cfg-options train_dataloader.dataset.ann_file=shots/voc_split1_5shot_seed0.json train_cfg.max_iters=20000
param_scheduler.1.end=20000 param_scheduler.1.milestones=[18000]
"""

from mmengine.config import read_base

with read_base():
    from .faster_rcnn_r50_fpn_voc_split1_base import *

from ovd.data.fine_tuning import FineTuningDataset

load_from = "work_dirs/faster_rcnn_r50_fpn_voc_split1_base/init.pth"
iterations = 40_000

model["frozen"] = all_but_last_layers
model["roi_head"]["bbox_head"].update(num_classes=20)
train_dataloader["dataset"].update(
    type=FineTuningDataset, ann_file="shots/voc_split1_10shot_seed0.json", learn="all")
optim_wrapper["optimizer"].update(lr=0.001)
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations, milestones=[36_000])
