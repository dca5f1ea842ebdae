"""ViLD on LVIS v1 with 866 base and 337 novel (rare) classes, which learns from CLIP's embeddings of proposals too.

The paper's R50 has mask AP 22.5 and APr 16.1 (as Detic's paper quotes it, table 3), from ImageNet in about 460 epochs
with large-scale jitter: vild_r50_fpn_lsj_lvis_866_337.py. This is OpenSet-dev's schedule of 20 epochs. Not yet run
here at full size.

    tools/dist_train.sh configs/vild/vild_r50_fpn_lvis_866_337.py 8
    tools/dist_test.sh configs/vild/vild_r50_fpn_lvis_866_337.py \
        work_dirs/vild_r50_fpn_lvis_866_337/final.pth 8 --eval bbox segm

What must be made before: see configs/_base_/datasets/lvis_866_337.py. To start from SoCo as DetPro does: --cfg-options
load_from=soco.safetensors (docs/checkpoints.md says how that file is made)
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_20e import *

model["mode"] = "both"
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
