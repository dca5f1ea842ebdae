"""30,000 episodes, as in Sylph's meta-training: AdamW, decays after 20,000 and 26,000, gradients clipped to norm 1."""

from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import AdamW

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=5e-4, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type=MultiStepLR, by_epoch=False, begin=0, end=30000, milestones=[20000, 26000], gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=30000, val_interval=30001)
test_cfg = dict(type=TestLoop)
auto_scale_lr = dict(enable=False, base_batch_size=8)
