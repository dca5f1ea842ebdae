"""Fine-tuning of last layers on the embedded benchmark: 150 iterations of AdamW, cosine decay, no warm-up."""

from mmengine.optim import CosineAnnealingLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import AdamW

iterations = 150

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=3e-3, weight_decay=1e-4), clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type=CosineAnnealingLR, by_epoch=False, begin=0, end=iterations, T_max=iterations, eta_min=3e-5)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=iterations, val_interval=iterations + 1)
test_cfg = dict(type=TestLoop)
