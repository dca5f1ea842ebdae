# ruff: noqa: F403, F405
"""A config for tests: Mask R-CNN with learned classes and SparK's fine-tuning, on the pictures of tiny_world.py."""

from mmengine.config import read_base

with read_base():
    from ..configs._base_.models.mask_rcnn_conv_r50_fpn import *
    from ..configs._base_.runtime import *
    from ..configs._base_.schedules.spark_90k import *

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmengine.dataset import DefaultSampler, InfiniteSampler

from ovd.data.dataset import OpenVocabDataset
from ovd.evaluation.metric import OpenVocabMetric

data_root = "data/tiny"
split = "annotations/split.json"

train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
    dict(type=Resize, scale=(64, 64), keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(64, 64), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(type=OpenVocabDataset, data_root=data_root, ann_file="annotations/train.json", split=split,
                 data_prefix=dict(img="train"), pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=OpenVocabDataset, data_root=data_root, ann_file="annotations/val.json", split=split,
                 data_prefix=dict(img="val"), test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type=OpenVocabMetric, data_root=data_root, ann_file="annotations/val.json", split=split)
val_dataloader, val_evaluator = test_dataloader, test_evaluator

model["backbone"].update(depth=18, base_channels=8, init_cfg=None)
model["neck"].update(in_channels=[8, 16, 32, 64], out_channels=16)
model["rpn_head"].update(in_channels=16, feat_channels=16)
model["rpn_head"]["anchor_generator"].update(scales=[4])
for part in ("bbox", "mask"):
    model["roi_head"][f"{part}_roi_extractor"].update(out_channels=16)
    model["roi_head"][f"{part}_head"].update(in_channels=16, conv_out_channels=16, num_classes=5)
model["roi_head"]["bbox_head"].update(fc_out_channels=32)
model["train_cfg"]["rpn_proposal"].update(nms_pre=100, max_per_img=40)
model["train_cfg"]["rcnn"]["sampler"].update(num=24)
model["test_cfg"]["rpn"].update(nms_pre=100, max_per_img=30)
model["test_cfg"]["rcnn"].update(score_thr=1e-3, max_per_img=20)

optim_wrapper["optimizer"].update(lr=1e-3)
train_cfg.update(max_iters=10, val_interval=4)
param_scheduler[0].update(end=4)
param_scheduler[1].update(end=10, milestones=[7, 9])
custom_hooks[0].update(batches=3)
default_hooks["checkpoint"].update(interval=4)
