"""Sylph's baseline in the manner of ONCE on LVIS v1: codes are plain means over shots.

    tools/dist_train_multi.sh configs/sylph/sylph_once_lvis_866_337.py 8 2 NODE_RANK ADDRESS

Otherwise as sylph_fa_lvis_866_337.py.
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_lvis_866_337 import *

model["code_generator"] = once
