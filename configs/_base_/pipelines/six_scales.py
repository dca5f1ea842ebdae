"""DetPro's training pipelines: the shorter side is one of six sizes from 640 to 800; all 1000 cached proposals.

A config that reads this file after its dataset puts ``train_pipeline`` into its training dataset.
"""

from mmcv.transforms import LoadImageFromFile, RandomChoiceResize
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize

from ovd.data.transforms import LoadRegions, PackRegions

scales = [(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)]

train_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=LoadRegions, top_k=1000),
    dict(type=RandomChoiceResize, resize_type=Resize, scales=scales, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackRegions),
]
