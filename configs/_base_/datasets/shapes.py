"""The embedded benchmark: 192-pixel scenes, 72 base and 30 novel classes; `ovd shapes` renders it.

Paths are relative to data_root. `proposals` and `regions` are the settings of the two offline stages.
"""

from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler, InfiniteSampler

from ovd.data.dataset import OpenVocabDataset
from ovd.data.transforms import LoadRegions, PackRegions
from ovd.evaluation.metric import OpenVocabMetric

data_root = "data/shapes"
split = "annotations/split.json"
train_ann = "annotations/instances_train_shapes.json"  # base classes only
support_ann = "annotations/instances_train.json"  # shots are drawn from it; it has all classes
val_ann = "annotations/instances_val_shapes.json"  # all classes, base first
train_prefix = "train2017"
val_prefix = "val2017"
proposal_store_train = "proposals/train"
proposal_store_val = "proposals/val"
region_store = "regions/train"
class_head = "class_heads/shapes.safetensors"

proposals = dict(max_per_image=300, batch_size=16)
regions = dict(pretrained="shapes", recipe=dict(kind="clip", scales=(1.0, 1.5)), top_k=50, images_per_shard=125)

image_size = (192, 192)
batch_size = 8
distilled_regions = 40  # an image and iteration

train_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=True),
    dict(type=LoadRegions),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackRegions, max_regions=distilled_regions, min_size=4),
]
text_only_pipeline = [  # the same without cached regions
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=True),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=False),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=batch_size, num_workers=0, persistent_workers=False,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=OpenVocabDataset, ann_file=train_ann, split=split, region_store=region_store, data_root=data_root,
        data_prefix=dict(img=train_prefix), filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=10, num_workers=0, persistent_workers=False, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=OpenVocabDataset, ann_file=val_ann, split=split, data_root=data_root, data_prefix=dict(img=val_prefix),
        test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type=OpenVocabMetric, ann_file=val_ann, split=split, data_root=data_root)
