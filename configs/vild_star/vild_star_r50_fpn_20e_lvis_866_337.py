"""ViLD* on LVIS v1 with 866 base and 337 novel (rare) classes: DetPro's re-implementation of ViLD-ensemble.

DetPro's README reports, from SoCo: mask AP 25.2, APr 16.8, APc 25.6, APf 28.5; box AP 27.5, APr 17.4, APc 27.5, APf
31.9. Not yet run here at full size.

    ovd class-embeddings vild74 --dataset lvis_v1 --pretrained ViT-B/32
    ovd train configs/rpn/rpn_r101_fpn_2x_lvis_866_337.py
    ovd proposals configs/rpn/rpn_r101_fpn_2x_lvis_866_337.py work_dirs/rpn_r101_fpn_2x_lvis_866_337/final.pth
    ovd embed-regions configs/vild_star/vild_star_r50_fpn_20e_lvis_866_337.py
    tools/dist_train.sh configs/vild_star/vild_star_r50_fpn_20e_lvis_866_337.py 8
    tools/dist_test.sh configs/vild_star/vild_star_r50_fpn_20e_lvis_866_337.py \
        work_dirs/vild_star_r50_fpn_20e_lvis_866_337/final.pth 8 --eval bbox segm

Differs from ViLD-ensemble in its 74 prompt templates, 1000 cached proposals an image (of a ResNet-101 trained on base
classes) instead of 300, a backbone of which every stage is trained, one decay of the learning rate, and in where it
starts: from SoCo, backbone and heads, with --cfg-options load_from=soco.safetensors model.backbone.style=caffe
(docs/checkpoints.md says how that file is made)
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lvis_866_337 import *
    from .._base_.models.vild_star_mask_rcnn_r50_fpn import *
    from .._base_.pipelines.six_scales import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_20e_detpro import *

proposal_store_train = "proposals/train_866_337_r101"
proposal_store_val = "proposals/val_866_337_r101"
region_store = "regions/train_866_337_r101"
region_store_val = "regions/val_866_337_r101"
class_head = "class_heads/vild74_ViT-B-32.safetensors"
proposals.update(max_per_image=1000)
regions.update(top_k=1000)

train_dataloader["dataset"]["dataset"].update(region_store=region_store, pipeline=train_pipeline)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
