# ruff: noqa: F403, F405, I001
"""A config for tests: tiny_vild.py's detector with a network that makes classes from boxes, trained on episodes."""

from mmengine.config import read_base

with read_base():
    from .tiny_vild import *
    from ..configs._base_.models.hyper_vild import *

model.update(hyper)
model["code_generator"].update(hidden=16)
episodes.update(n_way=2, k_shot=(1, 2))
train_dataloader["dataset"].update(region_store=None, pipeline=[
    dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=(64, 64), keep_ratio=True), dict(type=RandomFlip, prob=0.5), dict(type=PackDetInputs)])
train_dataloader["dataset"] = dict(**episodes, dataset=train_dataloader["dataset"])
train_dataloader.update(batch_size=1, collate_fn=dict(type="one_episode"))
train_cfg["max_iters"] = 4
