"""ViLD-text on COCO with 65 base and 15 novel classes with large-scale jitter; see vild_r50_fpn_lsj_coco_65_15.py.

We know of no published figure of it. Not yet run here at full size.

    tools/dist_train_multi.sh configs/vild/vild_text_r50_fpn_lsj_coco_65_15.py 8 8 NODE_RANK ADDRESS
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_lsj_coco_65_15 import *

model["mode"] = "text"
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
