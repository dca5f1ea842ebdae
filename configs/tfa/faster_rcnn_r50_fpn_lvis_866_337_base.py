"""TFA's first stage on LVIS's 866 common and frequent classes, with COCO's schedule: 110,000 x 16 images.

Not yet run here at full size.

    tools/dist_train.sh configs/tfa/faster_rcnn_r50_fpn_lvis_866_337_base.py 8
    ovd test configs/tfa/faster_rcnn_r50_fpn_lvis_866_337_base.py \
        work_dirs/faster_rcnn_r50_fpn_lvis_866_337_base/final.pth

What must be made before: see configs/_base_/datasets/lvis_866_337.py. Next: faster_rcnn_r50_fpn_lvis_866_337_10shot.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.tfa_faster_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.tfa_110k import *

model["roi_head"]["bbox_head"].update(num_classes=866)
model["test_cfg"]["rcnn"].update(score_thr=1e-4, max_per_img=300)
text_only_pipeline[1].update(with_mask=False)
train_dataloader.update(sampler=sampler)
train_dataloader["dataset"]["dataset"].update(region_store=None, pipeline=text_only_pipeline)
test_evaluator.update(metric="bbox")
