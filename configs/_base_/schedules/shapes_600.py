"""600 iterations for the embedded benchmark: AdamW, a short warm-up, cosine decay; the backbone at half the rate."""

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import AdamW

iterations = 600
warmup_iterations = 30

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=10.0),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.5))))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.05, by_epoch=False, begin=0, end=warmup_iterations),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=warmup_iterations, end=iterations,
         T_max=iterations - warmup_iterations, eta_min=1e-5),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=iterations, val_interval=iterations + 1)
test_cfg = dict(type=TestLoop)
