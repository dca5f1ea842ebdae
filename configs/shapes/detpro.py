"""DetPro on the embedded benchmark: ViLD-ensemble with learned prompts in place of templates; nothing else differs.

    ovd proposals configs/shapes/detpro.py --from-annotations --subset train --out data/shapes/proposals/ground_truth
    ovd embed-regions configs/shapes/detpro.py --proposals data/shapes/proposals/ground_truth \
        --out data/shapes/regions/ground_truth
    ovd learn-prompts configs/shapes/detpro.py
    ovd train configs/shapes/detpro.py
    ovd test configs/shapes/detpro.py work_dirs/detpro/final.pth --eval bbox segm
"""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble import *

class_head = "class_heads/detpro.safetensors"
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head)
prompts = dict(ground_truth_store="regions/ground_truth", mode="fg_only", temperature=0.02, lr=1.0)
