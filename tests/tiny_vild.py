# ruff: noqa: F403, F405, I001
"""A config for tests: ViLD small enough to train a few steps in a second, on the pictures of tiny_world.py."""

from mmengine.config import read_base

with read_base():
    from ..configs._base_.models.vild_mask_rcnn_r50_fpn import *
    from ..configs._base_.runtime import *

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, RandomFlip, Resize
from mmdet.datasets.transforms import PackDetInputs
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.optim import LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop
from torch.optim import SGD

from ovd.data.dataset import OpenVocabDataset
from ovd.data.transforms import LoadRegions, PackRegions
from ovd.evaluation.metric import OpenVocabMetric

data_root = "data/tiny"
split = "annotations/split.json"
region_store = "regions"
class_head = "head.safetensors"

train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
    dict(type=LoadRegions),
    dict(type=Resize, scale=(64, 64), keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackRegions, max_regions=6),
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
                 region_store=region_store, data_prefix=dict(img="train"), pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=OpenVocabDataset, data_root=data_root, ann_file="annotations/val.json", split=split,
                 data_prefix=dict(img="val"), test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type=OpenVocabMetric, data_root=data_root, ann_file="annotations/val.json", split=split)

model["backbone"] = dict(type="ResNet", depth=18, base_channels=8, norm_eval=True, norm_cfg=dict(type="BN"))
model["neck"] = dict(type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5)
model["rpn_head"].update(in_channels=16, feat_channels=16)
model["rpn_head"]["anchor_generator"].update(scales=[4])
for part in ("bbox", "mask"):
    model["roi_head"][f"{part}_roi_extractor"].update(out_channels=16)
model["roi_head"]["bbox_head"].update(
    in_channels=16, conv_out_channels=16, fc_out_channels=32, num_shared_convs=1, norm_cfg=None)
model["roi_head"]["bbox_head"]["classifier"].update(
    class_head=class_head, split=split, data_root=data_root, embed_dim=8)
model["roi_head"]["distillation"].update(warmup=6)
model["roi_head"]["mask_head"].update(in_channels=16, conv_out_channels=16, num_convs=1, norm_cfg=None)
model["train_cfg"]["rpn_proposal"].update(nms_pre=100, max_per_img=40)
model["train_cfg"]["rcnn"]["sampler"].update(num=24)
model["test_cfg"]["rpn"].update(nms_pre=100, max_per_img=30)
model["test_cfg"]["rcnn"].update(max_per_img=20)

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01, momentum=0.9), clip_grad=dict(max_norm=10))
param_scheduler = [dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=8)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=10, val_interval=11)
test_cfg = dict(type=TestLoop)
default_hooks["logger"].update(interval=1)
default_hooks["checkpoint"].update(interval=4)
