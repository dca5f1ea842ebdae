"""ViLD-ensemble on COCO with 65 base and 15 novel classes with large-scale jitter; see vild_r50_fpn_lsj_coco_65_15.py.

We know of no published figure of it. Not yet run here at full size.

    tools/dist_train_multi.sh configs/vild/vild_ensemble_r50_fpn_lsj_coco_65_15.py 8 8 NODE_RANK ADDRESS
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_lsj_coco_65_15 import *

from ovd.models import ViLDImageHead

model["mode"] = "ensemble"
model["roi_head"]["image_head"] = dict(type=ViLDImageHead)  # else as the box head
model["test_cfg"]["rcnn"].update(score_lambda=2 / 3)
