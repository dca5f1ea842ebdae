"""Large-scale jitter (LSJ): images scaled by 0.1 to 2.0 against a square of 1024 and cropped to it, as ViLD trains.

Cached regions are cropped with the image, boxes and embeddings together; what a crop cuts off is dropped. Images that
stay smaller than the square are padded on the device, after normalisation, by ``square_batches``, which a config puts
into its ``data_preprocessor``. A config that reads this file after its dataset puts ``train_pipeline`` (or
``text_only_pipeline``) into its training dataset.
"""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets.transforms import FilterAnnotations, LoadAnnotations, PackDetInputs, RandomCrop, RandomFlip, Resize
from mmdet.models import BatchFixedSizePad

from ovd.data.transforms import LoadRegions, PackRegions

square = (1024, 1024)
square_batches = [dict(type=BatchFixedSizePad, size=square, pad_mask=True)]

text_only_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True, poly2mask=False),
    dict(type=RandomResize, resize_type=Resize, scale=square, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type=RandomCrop, crop_size=square, crop_type="absolute", recompute_bbox=True, allow_negative_crop=True),
    dict(type=FilterAnnotations, min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False),  # an image may end up without objects
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
train_pipeline = [
    *text_only_pipeline[:2],
    dict(type=LoadRegions, top_k=300),
    *text_only_pipeline[2:-1],
    dict(type=PackRegions, max_regions=200),  # as in multi_scale.py
]
