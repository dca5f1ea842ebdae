"""The Mask R-CNN of ViLD's own code (tensorflow/tpu, projects/vild) as far as mmdet's parts go; differs from DetPro's.

Everything is trained from ImageNet, with batch normalisation synchronised across devices in backbone, FPN and heads;
two convolutions in the RPN; two fully connected layers of 1024 in the box head; smooth L1 instead of L1; temperature
0.01 also at test. Kept as elsewhere here: the RPN has no batch normalisation; logits of novel classes are masked in
training (there: set to 0); detections below a score of 1e-4 are dropped (there: none); and distillation warms up in 200
iterations.
"""

from mmengine.config import read_base

with read_base():
    from .vild_mask_rcnn_r50_fpn import *

from mmdet.models.losses import SmoothL1Loss

sync_bn = dict(type="SyncBN", requires_grad=True, momentum=0.003, eps=1e-4)  # TensorFlow's momentum is 1 - 0.003

model["backbone"].update(frozen_stages=-1, norm_cfg=sync_bn, norm_eval=False)
model["neck"].update(norm_cfg=sync_bn)
model["rpn_head"].update(num_convs=2, loss_bbox=dict(type=SmoothL1Loss, beta=1 / 9, loss_weight=1.0))
model["roi_head"]["bbox_head"].update(
    num_shared_fcs=2, norm_cfg=sync_bn, loss_bbox=dict(type=SmoothL1Loss, beta=1.0, loss_weight=1.0))
model["roi_head"]["bbox_head"]["classifier"].update(temperature_test=0.01)
model["roi_head"]["mask_head"].update(norm_cfg=sync_bn)
