"""30,000 iterations of SGD, an episode of three classes on each of 16 GPUs, gradients clipped: Sylph's meta-training.

The rate is a twentieth of base training's. With fewer GPUs: --cfg-options auto_scale_lr.enable=True
"""

from mmengine.dataset import InfiniteSampler
from mmengine.optim import MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import SGD

sampler = dict(type=InfiniteSampler, shuffle=True)
episodes = dict(n_way=3, k_shot=5, n_query=1)
train_cfg = dict(type=IterBasedTrainLoop, max_iters=30_000, val_interval=30_001)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=5e-4, momentum=0.9, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=MultiStepLR, by_epoch=False, begin=0, end=30_000, milestones=[20_000, 26_000], gamma=0.1)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
