"""ViLD-text: learns from base annotations only, without distillation: what class names alone can do.

The paper's R50 has mask AP 24.9 and APr 10.1 (as Detic's paper quotes it, table 3), with its own longer schedule:
vild_text_r50_fpn_lsj_lvis_866_337.py. Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_text_r50_fpn_lvis_866_337.py 8
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_lvis_866_337 import *

model["mode"] = "text"
train_dataloader["dataset"]["dataset"].update(region_store=None, pipeline=text_only_pipeline)
