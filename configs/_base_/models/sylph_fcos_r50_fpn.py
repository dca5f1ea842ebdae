"""FCOS on ResNet-50 as Sylph's base detector has it: levels P3 to P7, towers of four convolutions, 1x1 classifier."""

from mmdet.models import FPN, DetDataPreprocessor, ResNet
from mmdet.models.losses import FocalLoss, GIoULoss

from ovd.models.sylph import CodeFCOSHead, SylphFCOS

model = dict(
    type=SylphFCOS,
    data_preprocessor=dict(
        type=DetDataPreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type=ResNet, depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True), norm_eval=True, style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50")),
    neck=dict(
        type=FPN, in_channels=[256, 512, 1024, 2048], out_channels=256, start_level=1, add_extra_convs="on_output",
        num_outs=5, relu_before_extra_convs=True),
    bbox_head=dict(
        type=CodeFCOSHead, in_channels=256, feat_channels=256, stacked_convs=4, strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type="GN", num_groups=32), quality=["centerness"], class_head=None,
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=GIoULoss, loss_weight=1.0)),
    test_cfg=dict(score_thr=0.05, nms_pre=1000, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100),
)
