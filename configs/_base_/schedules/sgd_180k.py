"""180,000 iterations of SGD at a batch of 256, decays after 162,000, 171,000 and 175,500: ViLD's schedule.

About 460 epochs of LVIS, to go with large-scale jitter. 8 machines x 8 GPUs x 4 images; with another batch, scale the
rate: --cfg-options auto_scale_lr.enable=True
"""

from mmengine.dataset import InfiniteSampler
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import SGD

sampler = dict(type=InfiniteSampler, shuffle=True)
images_per_gpu = 4
train_cfg = dict(type=IterBasedTrainLoop, max_iters=180_000, val_interval=180_000)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.32, momentum=0.9, weight_decay=4e-5))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=1000),
    dict(type=MultiStepLR, by_epoch=False, begin=0, end=180_000, milestones=[162_000, 171_000, 175_500], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=256)
