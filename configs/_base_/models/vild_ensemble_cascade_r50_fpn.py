"""ViLD-ensemble on Cascade Mask R-CNN R50-FPN (DetPro's cascade): three stages, each with a text and an image head.

Stages as in Cascade R-CNN: IoU of 0.5, 0.6 and 0.7 for positives, target deviations of 0.1, 0.05 and 0.033, losses
weighted 1, 0.5 and 0.25. Scores are the mean of the stages' fused probabilities. A method's config sets
``model["roi_head"]["bbox_head"]["classifier"]`` as for vild_mask_rcnn_r50_fpn.py; all heads follow it.
"""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble_mask_rcnn_r50_fpn import *

from mmdet.models.losses import SmoothL1Loss
from mmdet.models.task_modules import MaxIoUAssigner, RandomSampler

from ovd.models import ViLDCascadeRoIHead

model["roi_head"].update(
    type=ViLDCascadeRoIHead, stage_loss_weights=[1.0, 0.5, 0.25],
    stage_target_stds=[[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]])
model["roi_head"]["bbox_head"].update(loss_bbox=dict(type=SmoothL1Loss, beta=1.0, loss_weight=1.0))
model["train_cfg"]["rcnn"] = [
    dict(
        assigner=dict(
            type=MaxIoUAssigner, pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou, match_low_quality=False,
            ignore_iof_thr=-1),
        sampler=dict(type=RandomSampler, num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
        mask_size=28, pos_weight=-1, debug=False)
    for iou in (0.5, 0.6, 0.7)]
model["test_cfg"]["rcnn"].update(score_thr=1e-3)
