"""SparK's fine-tuning on COCO: 90,000 iterations at a batch of 16, rates quartered after 60,000 and 80,000.

It is evaluated every 5,000 iterations, with batch-normalisation statistics taken anew before; each evaluation leaves a
line in results.jsonl.
"""

from mmengine.config import read_base

with read_base():
    from .spark_adamw import *

from mmengine.optim import MultiStepLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop

from ovd.engine.precise_bn import PreciseBNHook

train_cfg = dict(type=IterBasedTrainLoop, max_iters=90000, val_interval=5000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
param_scheduler = [
    warmup,
    dict(type=MultiStepLR, by_epoch=False, begin=0, end=90000, milestones=[60000, 80000], gamma=0.25),
]
custom_hooks = [dict(type=PreciseBNHook, batches=200)]
