"""ViLD-image: the embeddings of regions are learned from CLIP's only; annotations teach boxes and masks.

Classes have no background to compete with (ViLD, sec. 3.3). Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_image_r50_fpn_coco_65_15.py 8
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_coco_65_15 import *

model["mode"] = "image"
