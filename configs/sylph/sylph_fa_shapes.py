"""Meta-training on the embedded benchmark: the code generator alone learns to make classes from a few boxes.

    ovd train configs/sylph/sylph_fa_shapes.py
    ovd fewshot-eval configs/sylph/sylph_fa_shapes.py work_dirs/sylph_fa_shapes/final.pth --methods codes --shots 1 5

Novel AP50 was 49 with 1 and 5 shots (one seed of shots) at iteration 900 of a schedule of 1500; 35 and 42 after 500
with 6 classes an episode. Base AP50 stays 92.8 to the digit.

Starts from the checkpoint of fcos_base_shapes.py; another: --cfg-options load_from=FILE
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.sylph_generators import *
    from .fcos_base_shapes import *

from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from ovd.data.episodes import EpisodeDataset

load_from = "work_dirs/fcos_base_shapes/final.pth"
iterations = 900
support_extractor.update(out_channels=width, featmap_strides=strides, finest_scale=24)
convolutional.update(in_channels=width, out_channels=code_width, norm_groups=8)
model.update(code_generator=convolutional, support_extractor=support_extractor,
             frozen=["backbone", "neck", "bbox_head"])
train_dataloader.update(batch_size=1, collate_fn=dict(type="one_episode"))
train_dataloader["dataset"] = dict(
    type=EpisodeDataset, n_way=10, k_shot=(1, 5), n_query=1, dataset=train_dataloader["dataset"])
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
train_cfg.update(max_iters=iterations, val_interval=iterations + 1)
param_scheduler[1].update(end=iterations, T_max=iterations - warmup_iterations)
