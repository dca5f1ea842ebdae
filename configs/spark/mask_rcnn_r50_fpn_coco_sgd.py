"""The same detector and schedule with SGD at one rate for all layers, as detectron2's 1x: where backbones are compared.

    tools/dist_train.sh configs/spark/mask_rcnn_r50_fpn_coco_sgd.py 8

Layer-wise decay goes with SGD too: --cfg-options optim_wrapper.paramwise_cfg.layer_decay=0.8. Not yet run here at full
size.
"""

from mmengine.config import read_base

with read_base():
    from .mask_rcnn_r50_fpn_coco import *

from torch.optim import SGD

optim_wrapper.update(optimizer=dict(type=SGD, lr=0.02, momentum=0.9, nesterov=False, weight_decay=1e-4))
optim_wrapper["paramwise_cfg"].update(layer_decay=1.0)
param_scheduler[1].update(gamma=0.1)
