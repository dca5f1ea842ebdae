"""Base training of Sylph's FCOS on COCO, 60 base classes: batch 128, 90,000 iterations, large-scale jitter.

Not yet run here at full size.

    tools/dist_train.sh configs/sylph/fcos_base_coco_60_20.py 8
    ovd test configs/sylph/fcos_base_coco_60_20.py work_dirs/fcos_base_coco_60_20/final.pth

What must be made before: see configs/_base_/datasets/coco_60_20.py. Next: sylph_fa_coco_60_20.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_60_20 import *
    from .._base_.models.sylph_fcos_r50_fpn import *
    from .._base_.pipelines.large_scale_jitter import *
    from .._base_.runtime import *
    from .._base_.schedules.sylph_90k import *

text_only_pipeline[1].update(with_mask=False)
train_dataloader.update(batch_size=images_per_gpu, sampler=sampler)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
model["bbox_head"].update(split=split, data_root=data_root)
test_evaluator.update(metric="bbox")
