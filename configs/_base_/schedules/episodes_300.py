"""300 episodes for the embedded benchmark: AdamW, cosine decay; gradients are clipped to a norm of 1."""

from mmengine.optim import CosineAnnealingLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import AdamW

iterations = 300

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [dict(type=CosineAnnealingLR, by_epoch=False, begin=0, end=iterations, T_max=iterations)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=iterations, val_interval=iterations + 1)
test_cfg = dict(type=TestLoop)
