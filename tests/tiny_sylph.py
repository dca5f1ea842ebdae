# ruff: noqa: F403, F405, I001
"""A config for tests: a small FCOS whose code generator, and perhaps whose tower, learns from tiny pictures."""

from mmengine.config import read_base

with read_base():
    from .tiny_vild import *
    from ..configs._base_.models.sylph_generators import *

from mmdet.models import DetDataPreprocessor

from ovd.data.episodes import EpisodeDataset
from ovd.models.sylph import CodeFCOSHead, SylphFCOS

strides = [8, 16, 32]
support_extractor.update(out_channels=16, featmap_strides=strides, finest_scale=28)
convolutional.update(in_channels=16, out_channels=16, norm_groups=4)
model = dict(
    type=SylphFCOS, data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type="ResNet", depth=18, base_channels=8, norm_eval=True, norm_cfg=dict(type="BN")),
    neck=dict(type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, start_level=1, num_outs=3),
    bbox_head=dict(
        type=CodeFCOSHead, in_channels=16, feat_channels=16, stacked_convs=1, strides=strides, split=split,
        data_root=data_root, class_head=None, regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_cfg=dict(type="GN", num_groups=4)),
    code_generator=convolutional, support_extractor=support_extractor, frozen=["backbone", "neck", "bbox_head"],
    trainable=[],
    test_cfg=dict(score_thr=1e-4, nms_pre=100, nms=dict(type="nms", iou_threshold=0.6), max_per_img=50))
boxes_only = [
    dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=(64, 64), keep_ratio=True), dict(type=RandomFlip, prob=0.5), dict(type=PackDetInputs)]
train_dataloader["dataset"].update(region_store=None, pipeline=boxes_only)
train_dataloader["dataset"] = dict(
    type=EpisodeDataset, n_way=2, k_shot=(1, 2), n_query=1, dataset=train_dataloader["dataset"])
train_dataloader.update(batch_size=1, collate_fn=dict(type="one_episode"))
test_evaluator.update(metric="bbox")
train_cfg["max_iters"] = 4
