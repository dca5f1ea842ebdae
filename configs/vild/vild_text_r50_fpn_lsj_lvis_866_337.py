"""ViLD-text on LVIS v1 with the paper's large-scale jitter and schedule; see vild_r50_fpn_lsj_lvis_866_337.py.

The paper's R50 has mask AP 24.9, APr 10.1, APc 23.9, APf 32.5 (as Detic's paper quotes it, table 3). Not yet run here
at full size.

    tools/dist_train_multi.sh configs/vild/vild_text_r50_fpn_lsj_lvis_866_337.py 8 8 NODE_RANK ADDRESS
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_lsj_lvis_866_337 import *

model["mode"] = "text"
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
