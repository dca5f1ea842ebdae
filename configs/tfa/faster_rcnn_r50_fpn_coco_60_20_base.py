"""TFA's first stage on COCO's 60 base classes: Faster R-CNN with a cosine classifier, 110,000 x 16 images.

MMFewShot's README has base AP 39.5 with ResNet-101. Not yet run here at full size.

    tools/dist_train.sh configs/tfa/faster_rcnn_r50_fpn_coco_60_20_base.py 8
    ovd test configs/tfa/faster_rcnn_r50_fpn_coco_60_20_base.py \
        work_dirs/faster_rcnn_r50_fpn_coco_60_20_base/final.pth

What must be made before: see configs/_base_/datasets/coco_60_20.py. Next: faster_rcnn_r50_fpn_coco_60_20_10shot.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_60_20 import *
    from .._base_.models.tfa_faster_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.tfa_110k import *

model["roi_head"]["bbox_head"].update(num_classes=60)
text_only_pipeline[1].update(with_mask=False)
train_dataloader.update(sampler=sampler)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
test_evaluator.update(metric="bbox")
