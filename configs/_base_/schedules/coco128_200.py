"""200 iterations for COCO128: AdamW, a short warm-up, cosine decay; the backbone at a tenth of the rate."""

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import AdamW

iterations = 200
warmup_iterations = 20

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=2e-4, weight_decay=1e-4), clip_grad=dict(max_norm=10.0),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.05, by_epoch=False, begin=0, end=warmup_iterations),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=warmup_iterations, end=iterations, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=iterations, val_interval=iterations + 1)
test_cfg = dict(type=TestLoop)
