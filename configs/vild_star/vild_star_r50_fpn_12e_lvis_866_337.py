"""ViLD* on LVIS v1 in 12 epochs, DetPro's short schedule; otherwise as vild_star_r50_fpn_20e_lvis_866_337.py.

Not yet run here at full size.

    tools/dist_train.sh configs/vild_star/vild_star_r50_fpn_12e_lvis_866_337.py 8
"""

from mmengine.config import read_base

with read_base():
    from .vild_star_r50_fpn_20e_lvis_866_337 import *
    from .._base_.schedules.sgd_12e import *
