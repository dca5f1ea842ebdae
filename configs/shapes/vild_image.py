"""ViLD-image on the embedded benchmark: the same detector whose classes come from distillation alone.

    ovd train configs/shapes/vild_image.py
"""

from mmengine.config import read_base

with read_base():
    from .vild import *

model["mode"] = "image"
