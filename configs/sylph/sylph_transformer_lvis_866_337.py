"""Sylph on LVIS v1 with the transformer over shots as code generator, at twice the rate of the convolutional one.

    tools/dist_train_multi.sh configs/sylph/sylph_transformer_lvis_866_337.py 8 2 NODE_RANK ADDRESS

Otherwise as sylph_fa_lvis_866_337.py.
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_lvis_866_337 import *

model["code_generator"] = transformer
optim_wrapper["optimizer"].update(lr=1e-3)
