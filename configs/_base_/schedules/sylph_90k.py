"""90,000 iterations of SGD at a batch of 128 (8 GPUs x 16), decays after 60,000 and 80,000: Sylph's base training.

With another batch, scale the rate: --cfg-options auto_scale_lr.enable=True
"""

from mmengine.dataset import InfiniteSampler
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import SGD

sampler = dict(type=InfiniteSampler, shuffle=True)
images_per_gpu = 16
train_cfg = dict(type=IterBasedTrainLoop, max_iters=90_000, val_interval=90_001)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type=MultiStepLR, by_epoch=False, begin=0, end=90_000, milestones=[60_000, 80_000], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=128)
