"""110,000 iterations of SGD, 16 images each (8 GPUs x 2), decays after 85,000 and 100,000: TFA's base stage on COCO."""

from mmengine.dataset import InfiniteSampler
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import SGD

sampler = dict(type=InfiniteSampler, shuffle=True)
iterations = 110_000
train_cfg = dict(type=IterBasedTrainLoop, max_iters=iterations, val_interval=iterations)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type=MultiStepLR, by_epoch=False, begin=0, end=iterations, milestones=[85_000, 100_000], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
