"""What the embedded benchmark's networks share: the small CLIP's convolutional tower and a narrow FPN.

The tower plays the part that ImageNet or SoCo weights play at full size.
"""

from mmdet.models import FPN, DetDataPreprocessor

from ovd.models import ClipResNet
from ovd.models.clip_backbone import CLIP_MEAN_255, CLIP_STD_255

width = 64
tower = dict(
    data_preprocessor=dict(
        type=DetDataPreprocessor, mean=CLIP_MEAN_255, std=CLIP_STD_255, bgr_to_rgb=True, pad_mask=True,
        pad_size_divisor=32),
    backbone=dict(type=ClipResNet, pretrained="shapes"),
    neck=dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=width, num_outs=4),
)
anchors = dict(scales=[7], strides=[4, 8, 16, 32])  # objects are 26 to 80 pixels wide
