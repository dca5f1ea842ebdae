"""OADP's detector for COCO: oadp_mask_rcnn_r50_fpn.py without masks, and with the box head's temperatures the other way
round, 0.007 in training and 0.01 at test. All scores count at test (on LVIS too in OADP; there, 1203 classes are a
million candidates an image, and scores below 1e-4 are dropped here).
"""

from mmengine.config import read_base

with read_base():
    from .oadp_mask_rcnn_r50_fpn import *

model["roi_head"].update(mask_roi_extractor=None, mask_head=None)
model["roi_head"]["bbox_head"]["classifier"].update(temperature_train=0.007, temperature_test=0.01)
model["test_cfg"]["rcnn"].update(score_thr=0.0)
