"""Classes from boxes on the embedded benchmark: a trained ViLD, and a small network that learns to make class vectors.

Only the network is trained, on episodes of base classes. Starts from the checkpoint of configs/shapes/vild.py; another:
--cfg-options load_from=FILE

    ovd train configs/hyper_roi/hyper_roi_shapes.py
    ovd test configs/hyper_roi/hyper_roi_shapes.py work_dirs/hyper_roi_shapes/final.pth

What it does and what comes of it: docs/hypernetwork.md
"""

from mmengine.config import read_base

with read_base():
    from ..shapes.vild import *
    from .._base_.models.hyper_vild import *
    from .._base_.schedules.episodes_300 import *

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize

load_from = "work_dirs/vild/final.pth"
model.update(hyper)
episode_pipeline = [
    dict(type=LoadImageFromFile, color_type="color_ignore_orientation"),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
train_dataloader["dataset"].update(region_store=None, pipeline=episode_pipeline)
train_dataloader.update(
    batch_size=1, collate_fn=dict(type="one_episode"), sampler=episode_sampler)
train_dataloader["dataset"] = dict(**episodes, dataset=train_dataloader["dataset"])
