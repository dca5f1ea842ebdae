"""DetPro on LVIS v1 with 866 base and 337 novel (rare) classes with a cascade of three stages, each an ensemble.

DetPro's README reports, from SoCo: mask AP 27.0, APr 20.0, APc 26.7, APf 30.4; box AP 30.5, APr 21.7, APc 29.6, APf
35.0. Not yet run here at full size.

    tools/dist_train.sh configs/detpro/detpro_cascade_r50_fpn_20e_lvis_866_337.py 8
    tools/dist_test.sh configs/detpro/detpro_cascade_r50_fpn_20e_lvis_866_337.py \
        work_dirs/detpro_cascade_r50_fpn_20e_lvis_866_337/final.pth 8 --eval bbox segm

Class head, proposals and embeddings are those of detpro_r50_fpn_20e_lvis_866_337.py.
"""

from mmengine.config import read_base

with read_base():
    from .detpro_r50_fpn_20e_lvis_866_337 import *
    from .._base_.models.vild_star_cascade_r50_fpn import *

model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
