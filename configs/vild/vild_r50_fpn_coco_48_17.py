"""ViLD on COCO with 48 base and 17 novel classes: learns from base annotations and CLIP's embeddings of proposals.

The paper reports AP50 of 27.6 (novel) and 51.3 (all), with a much longer schedule; this one is OADP's. Not yet run
here at full size.

    tools/dist_train.sh configs/vild/vild_r50_fpn_coco_48_17.py 8
    tools/dist_test.sh configs/vild/vild_r50_fpn_coco_48_17.py \
        work_dirs/vild_r50_fpn_coco_48_17/final.pth 8 --eval bbox segm

What must be made before: see configs/_base_/datasets/coco_48_17.py. The paper's backbone starts from ImageNet, as
here; DetPro's and OADP's detectors from SoCo: --cfg-options load_from=soco.safetensors (docs/checkpoints.md says how
that file is made)
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_48_17 import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_40k import *

from mmengine.dataset import InfiniteSampler

train_dataloader["sampler"] = dict(type=InfiniteSampler, shuffle=True)
model["mode"] = "both"
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
