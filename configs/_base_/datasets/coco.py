"""COCO 2017, all 80 classes; the splits in this folder specialise it.

Expects in data_root: train2017/, val2017/, annotations/instances_{train,val}2017.json.
"""

from mmengine.config import read_base

with read_base():
    from ..pipelines.multi_scale import *

from mmdet.datasets import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler

from ovd.data.dataset import OpenVocabDataset
from ovd.evaluation.metric import OpenVocabMetric

# paths are relative to data_root
data_root = "data/coco"
split = "coco"
train_ann = "annotations/instances_train2017.json"
support_ann = "annotations/instances_train2017.json"  # shots are drawn from it; it has all classes
val_ann = "annotations/instances_val2017.json"
train_prefix = "train2017"
val_prefix = "val2017"
proposal_store_train = "proposals/train"
proposal_store_val = "proposals/val"
region_store = "regions/train"
region_store_val = "regions/val"
class_head = "class_heads/vild_ViT-B-32.safetensors"

# settings of the offline stages
proposals = dict(max_per_image=300, batch_size=2)
regions = dict(pretrained="ViT-B/32", recipe=dict(kind="clip", scales=(1.0, 1.5)), top_k=300, images_per_shard=512)

train_dataloader = dict(  # 8 GPUs x 2 images
    batch_size=2, num_workers=4, persistent_workers=True, pin_memory=True,
    sampler=dict(type=DefaultSampler, shuffle=True), batch_sampler=dict(type=AspectRatioBatchSampler),
    dataset=dict(
        type=OpenVocabDataset, data_root=data_root, ann_file=train_ann, split=split, region_store=region_store,
        data_prefix=dict(img=train_prefix), filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=False, pin_memory=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    dataset=dict(
        type=OpenVocabDataset, data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix),
        test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type=OpenVocabMetric, data_root=data_root, ann_file=val_ann, split=split, protocol="coco")
