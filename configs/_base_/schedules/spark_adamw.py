"""SparK's optimiser for fine-tuning a ResNet: AdamW with layer-wise learning-rate decay, no gradient clipping.

The stem learns at 0.047 of the rate of FPN and heads in an R-50; normalisation layers have no weight decay. The rate is
for 16 images a batch (8 GPUs x 2); with another batch, --cfg-options auto_scale_lr.enable=True scales it.
"""

from mmengine.optim import LinearLR, OptimWrapper
from torch.optim import AdamW

from ovd.engine.layer_decay import LayerDecayConstructor

optim_wrapper = dict(
    type=OptimWrapper, constructor=LayerDecayConstructor, optimizer=dict(type=AdamW, lr=2.5e-4, weight_decay=1e-4),
    paramwise_cfg=dict(layer_decay=0.6, norm_weight_decay=0.0, bias_lr_mult=1.0))
warmup = dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=1000)
auto_scale_lr = dict(enable=False, base_batch_size=16)
