"""COCO128 (the first photos of COCO train2017) with 48 base and 17 novel classes: the real thing at the smallest size.

Expects in data_root: images/ and instances_train2017.json. The same photos serve for training and evaluation, so a
figure says how well a detector fits them, not how well it generalises. The commands are in docs/real_photos.md.

Other sizes of image: --cfg-options image_scale="(256,160)"
"""

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmengine.dataset import DefaultSampler, InfiniteSampler

from ovd.data.dataset import OpenVocabDataset
from ovd.data.transforms import LoadRegions, PackRegions
from ovd.evaluation.metric import OpenVocabMetric

# paths are relative to data_root
data_root = "data/coco128"
split = "48_17"
train_ann = "annotations/instances_train2017_48_17.json"  # base classes only
val_ann = "annotations/instances_train2017_48_17_val.json"  # all classes
train_prefix = "images"
val_prefix = "images"
proposal_store_train = "proposals/coco128"  # one store for both subsets: the photos are the same
proposal_store_val = "proposals/coco128"
region_store = "regions/coco128"
class_head = "class_heads/coco_clip.safetensors"

# settings of the offline stages
proposals = dict(max_per_image=300)
regions = dict(pretrained="ViT-B/32", recipe=dict(kind="clip", scales=(1.0, 1.5)), top_k=50, images_per_shard=16)

image_scale = (512, 320)  # longer and shorter side at most, in pixels

train_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=LoadRegions),
    dict(type=Resize, scale=image_scale, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackRegions, max_regions=32, min_size=4),
]
boxes_pipeline = [  # for a proposal network
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=image_scale, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [  # annotations after resizing: their boxes stay in original pixels
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=Resize, scale=image_scale, keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=OpenVocabDataset, data_root=data_root, ann_file=train_ann, split=split, region_store=region_store,
        data_prefix=dict(img=train_prefix), filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=OpenVocabDataset, data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix),
        test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type=OpenVocabMetric, data_root=data_root, ann_file=val_ann, split=split, protocol="coco")
