"""Shorter side 640 to 800 pixels, longer at most 1333, flipped: the augmentation of OpenSet-dev and OADP; test at 800.

Of the 300 cached regions of an image, each iteration distils another random 200: the same loss in expectation, and a
step costs less than 1.1 of one without distillation (benchmarks/vild_step.py). For all of them as in the paper:
--cfg-options train_dataloader.dataset.pipeline.5.max_regions=none.

Evaluation loads annotations after resizing, so that their boxes stay in original pixels.
"""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize

from ovd.data.transforms import LoadRegions, PackRegions

train_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=LoadRegions, top_k=300),
    dict(type=RandomResize, resize_type=Resize, scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackRegions, max_regions=200),
]
text_only_pipeline = [  # the same without cached regions
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=RandomResize, resize_type=Resize, scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
proposals_only_pipeline = [  # for a proposal network: boxes, one scale (mmdet's)
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=(1333, 800), keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=Resize, scale=(1333, 800), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
