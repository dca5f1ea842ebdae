"""OADP on LVIS v1 with 866 base and 337 novel (rare) classes: objects, blocks and whole images distilled into Mask
R-CNN.

Its README reports a box APr of 20.6 and a mask APr of 19.9; re-evaluated by a user: box AP 28.5, APr 20.7, APc 28.2,
APf 32.3, and trained anew by the same 27.6, 18.2, 27.3, 32.1 (LutingWang/OADP, issue 13). Not yet run here at full
size.

    ovd embed-regions configs/oadp/oadp_r50_fpn_2x_lvis_866_337.py
    ovd embed-regions configs/oadp/oadp_r50_fpn_2x_lvis_866_337.py --what blocks
    ovd embed-regions configs/oadp/oadp_r50_fpn_2x_lvis_866_337.py --what globals
    tools/dist_train.sh configs/oadp/oadp_r50_fpn_2x_lvis_866_337.py 8
    tools/dist_test.sh configs/oadp/oadp_r50_fpn_2x_lvis_866_337.py \
        work_dirs/oadp_r50_fpn_2x_lvis_866_337/final.pth 8 --eval bbox segm

Proposals: see configs/_base_/datasets/lvis_866_337.py. Classes by DetPro's class head
(detpro_r50_fpn_20e_lvis_866_337.py makes it). To start from SoCo as OADP does: --cfg-options
load_from=soco.safetensors model.backbone.style=caffe (docs/checkpoints.md says how that file is made)
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.oadp_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_2x_oadp import *

region_store = "regions/train_866_337_oadp"
region_store_val = "regions/val_866_337_oadp"
block_store = "blocks/train_866_337"
global_store = "globals/train_866_337"
class_head = "class_heads/detpro.safetensors"
regions.update(recipe=dict(kind="adaptive", scales=(1.0,), min_size=4), masked_attention=True, upsample=2)

train_dataloader["dataset"]["dataset"].update(
    region_store=region_store, block_store=block_store, global_store=global_store)
model["roi_head"]["mask_head"].update(norm_cfg=None)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
