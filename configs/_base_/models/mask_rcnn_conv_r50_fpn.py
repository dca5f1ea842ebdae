"""Mask R-CNN R50-FPN with learned classes and batch normalisation that is trained, and synchronised, everywhere.

In backbone (all of it trained), FPN, box head (4 convolutions, 1 fully connected layer) and mask head: the detector on
which MoCo and SparK measure backbones. On one device, SyncBN becomes plain batch normalisation, whose statistics of a
few images are poor: there, a config replaces it by ``frozen_bn`` in the backbone and ``group_norm`` in the heads.
"""

from mmcv.ops import RoIAlign
from mmdet.models import FPN, DetDataPreprocessor, MaskRCNN, ResNet, RPNHead, StandardRoIHead
from mmdet.models.losses import CrossEntropyLoss, L1Loss
from mmdet.models.roi_heads import FCNMaskHead, Shared4Conv1FCBBoxHead, SingleRoIExtractor
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler

norm_cfg = dict(type="SyncBN", requires_grad=True)
group_norm = dict(type="GN", num_groups=32)
frozen_bn = dict(norm_cfg=dict(type="BN", requires_grad=False), norm_eval=True)  # arguments of the backbone

model = dict(
    type=MaskRCNN,
    data_preprocessor=dict(  # RGB, as timm and torchvision normalise it
        type=DetDataPreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_mask=True, pad_size_divisor=32),
    backbone=dict(
        type=ResNet, depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1, norm_cfg=norm_cfg,
        norm_eval=False, style="pytorch", init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50")),
    neck=dict(type=FPN, in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5, norm_cfg=norm_cfg),
    rpn_head=dict(
        type=RPNHead, in_channels=256, feat_channels=256,
        anchor_generator=dict(type=AnchorGenerator, scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0)),
    roi_head=dict(
        type=StandardRoIHead,
        bbox_roi_extractor=dict(
            type=SingleRoIExtractor, roi_layer=dict(type=RoIAlign, output_size=7, sampling_ratio=0), out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type=Shared4Conv1FCBBoxHead, in_channels=256, roi_feat_size=7, conv_out_channels=256, fc_out_channels=1024,
            num_classes=80, reg_class_agnostic=False, norm_cfg=norm_cfg,
            bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type=L1Loss, loss_weight=1.0)),
        mask_roi_extractor=dict(
            type=SingleRoIExtractor, roi_layer=dict(type=RoIAlign, output_size=14, sampling_ratio=0), out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        mask_head=dict(
            type=FCNMaskHead, num_convs=4, in_channels=256, conv_out_channels=256, num_classes=80, norm_cfg=norm_cfg,
            loss_mask=dict(type=CrossEntropyLoss, use_mask=True, loss_weight=1.0))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=MaxIoUAssigner, pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True,
                ignore_iof_thr=-1),
            sampler=dict(type=RandomSampler, num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=-1, pos_weight=-1, debug=False),
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False,
                ignore_iof_thr=-1),
            sampler=dict(type=RandomSampler, num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            mask_size=28, pos_weight=-1, debug=False)),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5)),
)
