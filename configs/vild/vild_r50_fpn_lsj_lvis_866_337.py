"""ViLD on LVIS v1 as its paper trains it: large-scale jitter, 180,000 iterations at a batch of 256, from ImageNet.

The paper's R50 has mask AP 22.5, APr 16.1, APc 20.0, APf 28.3 (as Detic's paper quotes it, table 3); its code's README
(tensorflow/tpu, projects/vild) has 22.5, 16.6, 19.8, 28.2. No repeat factor sampling. Not yet run here at full size.

    tools/dist_train_multi.sh configs/vild/vild_r50_fpn_lsj_lvis_866_337.py 8 8 NODE_RANK ADDRESS

What must be made before: see configs/_base_/datasets/lvis_866_337.py; what still differs from the paper's detector:
configs/_base_/models/vild_paper_mask_rcnn_r50_fpn.py. With another batch: --cfg-options auto_scale_lr.enable=True
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.vild_paper_mask_rcnn_r50_fpn import *
    from .._base_.pipelines.large_scale_jitter import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_180k import *

train_dataloader["dataset"] = train_dataloader["dataset"]["dataset"]  # nothing is repeated
train_dataloader.update(batch_size=images_per_gpu, sampler=sampler)
train_dataloader["dataset"].update(pipeline=train_pipeline)
model["mode"] = "both"
model["data_preprocessor"].update(batch_augments=square_batches)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
