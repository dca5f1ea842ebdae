"""ViLD-text on LVIS v1 in 24 epochs (2x), OADP's schedule for LVIS; otherwise as vild_text_r50_fpn_lvis_866_337.py.

Not yet run here at full size.

    tools/dist_train.sh configs/vild/vild_text_r50_fpn_2x_lvis_866_337.py 8
"""

from mmengine.config import read_base

with read_base():
    from .vild_text_r50_fpn_lvis_866_337 import *
    from .._base_.schedules.sgd_2x_oadp import *
