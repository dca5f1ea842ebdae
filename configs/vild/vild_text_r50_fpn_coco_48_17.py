"""ViLD-text: learns from base annotations only, without distillation: what class names alone can do.

We know of no figure of it in the paper. A later one (arXiv 2503.10152) reports AP50 of 2.8 (novel), 61.8 (base) and
46.3 (all) for its own baseline that is trained on base classes only. Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_text_r50_fpn_coco_48_17.py 8
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_coco_48_17 import *

model["mode"] = "text"
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
