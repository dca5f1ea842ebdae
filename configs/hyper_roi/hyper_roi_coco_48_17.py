"""Classes from boxes on COCO with 48 base and 17 novel classes: a trained ViLD and a network that makes class vectors.

Only the network is trained, on episodes of base classes. Starts from the checkpoint of vild_r50_fpn_coco_48_17.py;
another: --cfg-options load_from=FILE. Not yet run here at full size.

    tools/dist_train.sh configs/hyper_roi/hyper_roi_coco_48_17.py 8
    tools/dist_test.sh configs/hyper_roi/hyper_roi_coco_48_17.py \
        work_dirs/hyper_roi_coco_48_17/final.pth 8 --eval bbox segm

What it does and what comes of it: docs/hypernetwork.md
"""

from mmengine.config import read_base

with read_base():
    from ..vild.vild_r50_fpn_coco_48_17 import *
    from .._base_.models.hyper_vild import *
    from .._base_.schedules.episodes_30k import *

load_from = "work_dirs/vild_r50_fpn_coco_48_17/final.pth"
model.update(hyper)
model["backbone"]["init_cfg"] = None  # the checkpoint has it
model["code_generator"].update(hidden=1024)
train_dataloader["dataset"].update(region_store=None, pipeline=proposals_only_pipeline)
train_dataloader.update(
    batch_size=1, batch_sampler=None, collate_fn=dict(type="one_episode"), sampler=episode_sampler)
train_dataloader["dataset"] = dict(**episodes, dataset=train_dataloader["dataset"])
