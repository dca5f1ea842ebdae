"""20 epochs of SGD at a batch of 16 (8 GPUs x 2), decays after 16 and 19: OpenSet-dev's ViLD on LVIS.

With another batch, scale the rate: --cfg-options auto_scale_lr.enable=True
"""

from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop
from torch.optim import SGD

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=20, val_interval=20)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type=MultiStepLR, by_epoch=True, begin=0, end=20, milestones=[16, 19], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
