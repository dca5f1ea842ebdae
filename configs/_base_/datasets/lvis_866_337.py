"""LVIS v1 with its 866 common and frequent classes as base and its 337 rare ones as novel.

Expects in data_root: train2017/, val2017/ (the images of COCO), annotations/lvis_v1_{train,val}.json. LVIS's validation
images lie in both folders: an image's path comes from its coco_url. Before training:

    ovd build-zsl --split 866_337
    ovd class-embeddings vild --dataset lvis_v1 --pretrained ViT-B/32
    ovd train configs/rpn/lvis_866_337.py
    ovd proposals configs/rpn/lvis_866_337.py work_dirs/rpn_lvis_866_337/final.pth
    ovd embed-regions configs/vild/vild_r50_fpn_lvis_866_337.py

Images with rare classes are repeated (repeat factor sampling, threshold 1e-3, over base classes).
"""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets import AspectRatioBatchSampler
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmengine.dataset import ClassBalancedDataset, DefaultSampler

from ovd.data.dataset import OpenVocabDataset
from ovd.data.transforms import LoadRegions, PackRegions
from ovd.evaluation.metric import OpenVocabMetric

# paths are relative to data_root
data_root = "data/lvis_v1"
split = "866_337"
train_ann = "annotations/lvis_v1_train_866_337.json"  # base classes only
val_ann = "annotations/lvis_v1_val_866_337.json"  # all classes
train_prefix = ""
val_prefix = ""
proposal_store_train = "proposals/train_866_337"
proposal_store_val = "proposals/val_866_337"
region_store = "regions/train_866_337"
class_head = "class_heads/vild_ViT-B-32.safetensors"

# settings of the offline stages
proposals = dict(max_per_image=300, batch_size=2)
regions = dict(pretrained="ViT-B/32", recipe=dict(kind="clip", scales=(1.0, 1.5)), top_k=300, images_per_shard=512)

train_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=LoadRegions, top_k=300),
    dict(type=RandomResize, resize_type=Resize, scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackRegions),
]
text_only_pipeline = [  # the same without cached regions
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=RandomResize, resize_type=Resize, scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [  # annotations after resizing: their boxes stay in original pixels
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=Resize, scale=(1333, 800), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(  # 8 GPUs x 2 images
    batch_size=2, num_workers=4, persistent_workers=True, pin_memory=True,
    sampler=dict(type=DefaultSampler, shuffle=True), batch_sampler=dict(type=AspectRatioBatchSampler),
    dataset=dict(
        type=ClassBalancedDataset, oversample_thr=1e-3,
        dataset=dict(
            type=OpenVocabDataset, data_root=data_root, ann_file=train_ann, split=split, region_store=region_store,
            data_prefix=dict(img=train_prefix), filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=train_pipeline)))
test_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=False, pin_memory=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    dataset=dict(
        type=OpenVocabDataset, data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix),
        test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type=OpenVocabMetric, data_root=data_root, ann_file=val_ann, split=split, protocol="lvis")
