"""DetPro on LVIS v1 with 866 base and 337 novel (rare) classes: ViLD* whose prompts are learned from base classes.

DetPro's README reports, from SoCo: mask AP 25.9, APr 19.8, APc 25.6, APf 28.9; box AP 28.4, APr 20.8, APc 27.8, APf
32.4. Not yet run here at full size.

    ovd proposals configs/detpro/detpro_r50_fpn_20e_lvis_866_337.py --from-annotations --subset train \
        --out data/lvis_v1/proposals/ground_truth_866_337
    ovd embed-regions configs/detpro/detpro_r50_fpn_20e_lvis_866_337.py \
        --proposals data/lvis_v1/proposals/ground_truth_866_337 --out data/lvis_v1/regions/ground_truth_866_337 \
        --cfg-options regions.top_k=none
    ovd learn-prompts configs/detpro/detpro_r50_fpn_20e_lvis_866_337.py
    tools/dist_train.sh configs/detpro/detpro_r50_fpn_20e_lvis_866_337.py 8
    tools/dist_test.sh configs/detpro/detpro_r50_fpn_20e_lvis_866_337.py \
        work_dirs/detpro_r50_fpn_20e_lvis_866_337/final.pth 8 --eval bbox segm

Proposals and their embeddings are those of vild_star_r50_fpn_20e_lvis_866_337.py, whose commands come before these; to
start from SoCo as DetPro does, see there.
"""

from mmengine.config import read_base

with read_base():
    from ..vild_star.vild_star_r50_fpn_20e_lvis_866_337 import *

class_head = "class_heads/detpro.safetensors"
prompts = dict(ground_truth_store="regions/ground_truth_866_337")
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head)
