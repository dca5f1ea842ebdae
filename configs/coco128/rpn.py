"""Class-agnostic proposals on COCO128, learned from base annotations only; ResNet-50 of caffe style from ImageNet.

    tools/train.py configs/coco128/rpn.py
    tools/extract_proposals.py configs/coco128/rpn.py work_dirs/coco128_rpn/final.pth --subset val

The whole chain, and where the backbone's weights go: docs/real_photos.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco128_48_17 import *
    from .._base_.models.rpn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.coco128_200 import *

work_dir = "work_dirs/coco128_rpn"
backbone_weights = "pretrained/resnet50_imagenet_caffe_bgr_fp16.safetensors"

# caffe style: a block's stride on its first 1x1 convolution, BGR images in 0..255 minus the mean
model["data_preprocessor"].update(mean=[103.939, 116.779, 123.68], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
model["backbone"].update(
    style="caffe", frozen_stages=2, norm_cfg=dict(type="BN", requires_grad=False),
    init_cfg=dict(type="Pretrained", checkpoint=backbone_weights))
model["test_cfg"]["rpn"].update(nms_pre=1000)
train_dataloader["dataset"].update(region_store=None, pipeline=boxes_pipeline)
test_evaluator = None  # recall is measured by the stage that extracts the proposals
