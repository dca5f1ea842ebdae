"""Sylph on COCO, 60 base classes: generator and classification tower are meta-trained ("freeze partially").

    tools/dist_train_multi.sh configs/sylph/sylph_fp_coco_60_20.py 8 2 NODE_RANK ADDRESS

Otherwise as sylph_fa_coco_60_20.py; rows of the base checkpoint do not fit the new tower's features, so base classes
are made of boxes too: ovd fewshot-eval ... --methods codes --base-shots 10
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_coco_60_20 import *

model["trainable"] = ["bbox_head.cls_convs"]
