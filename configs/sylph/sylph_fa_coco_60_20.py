"""Sylph on COCO, 60 base classes: the code generator alone is meta-trained ("freeze all"), 30,000 episodes a GPU.

Starts from the checkpoint of fcos_base_coco_60_20.py; another: --cfg-options load_from=FILE

    tools/dist_train_multi.sh configs/sylph/sylph_fa_coco_60_20.py 8 2 NODE_RANK ADDRESS

Not yet run here at full size. Images are resized, not cropped: a crop may cut the support away.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.sylph_generators import *
    from .fcos_base_coco_60_20 import *
    from .._base_.pipelines.multi_scale import *
    from .._base_.schedules.sylph_meta_30k import *

from ovd.data.episodes import EpisodeDataset

load_from = "work_dirs/fcos_base_coco_60_20/final.pth"
text_only_pipeline[1].update(with_mask=False)
model.update(
    code_generator=convolutional, support_extractor=support_extractor, frozen=["backbone", "neck", "bbox_head"])
images = train_dataloader["dataset"]
images.update(pipeline=text_only_pipeline)
train_dataloader["dataset"] = dict(type=EpisodeDataset, **episodes, dataset=images)
train_dataloader.update(batch_size=1, batch_sampler=None, collate_fn=dict(type="one_episode"), sampler=sampler)
