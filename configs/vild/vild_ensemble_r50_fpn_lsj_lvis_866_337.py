"""ViLD-ensemble on LVIS v1 with the paper's large-scale jitter and schedule; see vild_r50_fpn_lsj_lvis_866_337.py.

The paper's R50 has mask AP 25.5, APr 16.6, APc 24.6, APf 30.3 (as Detic's paper quotes it, table 3); its code's README
(tensorflow/tpu, projects/vild) has 25.9, 18.0, 24.7, 30.6. Not yet run here at full size.

    tools/dist_train_multi.sh configs/vild/vild_ensemble_r50_fpn_lsj_lvis_866_337.py 8 8 NODE_RANK ADDRESS
"""

from mmengine.config import read_base

with read_base():
    from .vild_r50_fpn_lsj_lvis_866_337 import *

from ovd.models import ViLDImageHead

model["mode"] = "ensemble"
model["roi_head"]["image_head"] = dict(type=ViLDImageHead)  # else as the box head
model["test_cfg"]["rcnn"].update(score_lambda=2 / 3)
