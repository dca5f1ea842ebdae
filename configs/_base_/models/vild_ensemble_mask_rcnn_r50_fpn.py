"""ViLD-ensemble on Mask R-CNN R50-FPN: the text head learns from annotations, an image head of its own from the cache.

The image head has the box head's form (4 convolutions, 1 fully connected layer, projection to CLIP's width) and its
class head, without a background; scores are fused with lambda 2/3. A method's config sets
``model["roi_head"]["bbox_head"]["classifier"]`` as for vild_mask_rcnn_r50_fpn.py; both heads follow it.
"""

from mmengine.config import read_base

with read_base():
    from .vild_mask_rcnn_r50_fpn import *

from ovd.models import ViLDImageHead

model["mode"] = "ensemble"
model["roi_head"]["image_head"] = dict(type=ViLDImageHead)  # else as the box head
model["test_cfg"]["rcnn"].update(score_lambda=2 / 3)
