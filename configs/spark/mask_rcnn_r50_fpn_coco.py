"""Mask R-CNN on COCO's 80 classes with a ResNet-50 pre-trained by SparK, fine-tuned as SparK does (8 GPUs x 2).

The paper reports box AP 41.6 and mask AP 37.7, against 38.9 and 35.4 from supervised ImageNet weights. Not yet run here
at full size.

    tools/dist_train.sh configs/spark/mask_rcnn_r50_fpn_coco.py 8
    tools/dist_test.sh configs/spark/mask_rcnn_r50_fpn_coco.py work_dirs/mask_rcnn_r50_fpn_coco/final.pth 8 \
        --eval bbox segm

The backbone's weights are SparK's resnet50_1kpretrained_timm_style.pth, converted: see docs/spark.md. From other
weights: --cfg-options model.backbone.init_cfg.checkpoint=torchvision://resnet50
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco import *
    from .._base_.models.mask_rcnn_conv_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.spark_90k import *

from mmcv.transforms import RandomChoiceResize
from mmengine.dataset import InfiniteSampler

backbone_weights = "pretrained/spark_resnet50.safetensors"
train_scales = [(1333, side) for side in range(480, 897, 32)]  # longer side at most, shorter side

model["backbone"].update(init_cfg=dict(type="Pretrained", checkpoint=backbone_weights))
text_only_pipeline[2] = dict(type=RandomChoiceResize, resize_type=Resize, scales=train_scales, keep_ratio=True)
train_dataloader.update(sampler=dict(type=InfiniteSampler, shuffle=True))
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
val_dataloader, val_evaluator = test_dataloader, test_evaluator
default_hooks["checkpoint"].update(interval=5000)
