"""ViLD-text on the embedded benchmark: the same detector without distillation; what class names alone can do.

    ovd train configs/shapes/vild_text.py
"""

from mmengine.config import read_base

with read_base():
    from .vild import *

model["mode"] = "text"
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
