"""ViLD on COCO with 65 base and 15 novel classes with large-scale jitter: 180,000 iterations at a batch of 256.

We know of no published figure of ViLD on this split. Not yet run here at full size.

    tools/dist_train_multi.sh configs/vild/vild_r50_fpn_lsj_coco_65_15.py 8 8 NODE_RANK ADDRESS

What must be made before: see configs/_base_/datasets/coco_65_15.py.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_65_15 import *
    from .._base_.models.vild_paper_mask_rcnn_r50_fpn import *
    from .._base_.pipelines.large_scale_jitter import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_180k import *

train_dataloader.update(batch_size=images_per_gpu, sampler=sampler)
train_dataloader["dataset"].update(pipeline=train_pipeline)
model["mode"] = "both"
model["data_preprocessor"].update(batch_augments=square_batches)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
