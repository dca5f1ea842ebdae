"""Classes from boxes on LVIS v1 (866 base, 337 rare novel classes): a trained ViLD with a network that makes classes.

Only the network is trained, on episodes of base classes. Starts from the checkpoint of vild_r50_fpn_lvis_866_337.py;
another: --cfg-options load_from=FILE. Not yet run here at full size.

    tools/dist_train.sh configs/hyper_roi/hyper_roi_lvis_866_337.py 8
    tools/dist_test.sh configs/hyper_roi/hyper_roi_lvis_866_337.py \
        work_dirs/hyper_roi_lvis_866_337/final.pth 8 --eval bbox segm

What it does and what comes of it: docs/hypernetwork.md
"""

from mmengine.config import read_base

with read_base():
    from ..vild.vild_r50_fpn_lvis_866_337 import *
    from .._base_.models.hyper_vild import *
    from .._base_.schedules.episodes_30k import *

load_from = "work_dirs/vild_r50_fpn_lvis_866_337/final.pth"
model.update(hyper)
model["backbone"]["init_cfg"] = None  # the checkpoint has it
model["code_generator"].update(hidden=1024)
images = train_dataloader["dataset"]["dataset"]  # without repeats: episodes are drawn by class
images.update(region_store=None, pipeline=proposals_only_pipeline)
train_dataloader.update(
    batch_size=1, batch_sampler=None, collate_fn=dict(type="one_episode"), sampler=episode_sampler)
train_dataloader["dataset"] = dict(**episodes, oversample_thr=1e-3, dataset=images)
