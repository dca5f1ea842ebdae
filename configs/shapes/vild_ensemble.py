"""ViLD-ensemble on the embedded benchmark: a text head learns from annotations, an image head from CLIP's embeddings.

Scores are fused with lambda 2/3: each head counts more for the classes that it has learned. Heads as narrow as those of
vild.py, and as many regions through them in training.

    ovd train configs/shapes/vild_ensemble.py
    ovd test configs/shapes/vild_ensemble.py work_dirs/vild_ensemble/final.pth --eval bbox segm
"""

from mmengine.config import read_base

with read_base():
    from .vild import *

from ovd.models import ViLDImageHead

model["mode"] = "ensemble"
model["roi_head"]["image_head"] = dict(type=ViLDImageHead)  # else as the box head
model["test_cfg"]["rcnn"].update(score_lambda=2 / 3)
