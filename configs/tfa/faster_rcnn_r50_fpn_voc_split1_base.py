"""TFA's first stage on 15 classes of PASCAL VOC 2007 and 2012: 18,000 x 16 images.

MMFewShot's README has base AP50 80.9 (splits 2, 3: 82.0, 82.1) with ResNet-101. Not yet run here at full size.

    tools/dist_train.sh configs/tfa/faster_rcnn_r50_fpn_voc_split1_base.py 8
    ovd test configs/tfa/faster_rcnn_r50_fpn_voc_split1_base.py \
        work_dirs/faster_rcnn_r50_fpn_voc_split1_base/final.pth

What must be made before: see configs/_base_/datasets/voc_split1.py. Next: faster_rcnn_r50_fpn_voc_split1_10shot.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.voc_split1 import *
    from .._base_.models.tfa_faster_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.tfa_110k import *

model["roi_head"]["bbox_head"].update(num_classes=15)
train_dataloader.update(sampler=sampler)
iterations = 18_000
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[0].update(end=100)
param_scheduler[1].update(end=iterations, milestones=[12_000, 16_000])
