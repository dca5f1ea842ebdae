"""ViLD-ensemble on LVIS v1 with 866 base and 337 novel (rare) classes: a text head and an image head, whose scores are
fused.

The paper's R50 has mask AP 25.5, APr 16.6, APc 24.6, APf 30.3 (as Detic's paper quotes it, table 3) and box AP 27.8,
APr 16.7 (as POMP's does, table 7), with large-scale jitter: vild_ensemble_r50_fpn_lsj_lvis_866_337.py. This is
OpenSet-dev's schedule of 20 epochs. Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_ensemble_r50_fpn_lvis_866_337.py 8
    tools/dist_test.sh configs/vild/vild_ensemble_r50_fpn_lvis_866_337.py \
        work_dirs/vild_ensemble_r50_fpn_lvis_866_337/final.pth 8 --eval bbox segm

What must be made before: see configs/_base_/datasets/lvis_866_337.py.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.vild_ensemble_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_20e import *

model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
