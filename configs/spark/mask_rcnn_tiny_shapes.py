"""SparK's fine-tuning path at the smallest size: a ResNet-18 from nothing on the embedded benchmark, for two cores.

    ovd shapes
    ovd train configs/spark/mask_rcnn_tiny_shapes.py
    ovd test configs/spark/mask_rcnn_tiny_shapes.py work_dirs/mask_rcnn_tiny_shapes/final.pth --eval bbox segm

Some minutes that show that every part runs: layer-wise decay, trained batch normalisation and its statistics,
evaluation in between, results.jsonl. The classes of this detector are learned, so only base classes are found.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes import *
    from .._base_.models.mask_rcnn_conv_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.spark_90k import *

iterations = 200
num_classes = 102  # 72 of them are trained
width = 32

model["backbone"].update(depth=18, init_cfg=None)
model["neck"].update(in_channels=[64, 128, 256, 512], out_channels=width, num_outs=4)
model["rpn_head"].update(in_channels=width, feat_channels=width)
model["rpn_head"]["anchor_generator"].update(scales=[7], strides=[4, 8, 16, 32])
for part in ("bbox", "mask"):
    model["roi_head"][f"{part}_roi_extractor"].update(out_channels=width, featmap_strides=[4, 8, 16], finest_scale=28)
    model["roi_head"][f"{part}_roi_extractor"]["roi_layer"].update(sampling_ratio=2)
    model["roi_head"][f"{part}_head"].update(in_channels=width, conv_out_channels=width, num_classes=num_classes)
model["roi_head"]["bbox_head"].update(fc_out_channels=128)
model["roi_head"]["mask_head"].update(num_convs=1)
model["train_cfg"]["rpn"]["sampler"].update(num=64)
model["train_cfg"]["rpn_proposal"].update(nms_pre=200, max_per_img=60)
model["train_cfg"]["rcnn"]["sampler"].update(num=40, pos_fraction=0.4)
model["test_cfg"]["rpn"].update(nms_pre=200, max_per_img=60)
model["test_cfg"]["rcnn"].update(score_thr=1e-3)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
val_dataloader, val_evaluator = test_dataloader, test_evaluator

optim_wrapper["optimizer"].update(lr=1e-3)
train_cfg.update(max_iters=iterations, val_interval=iterations // 2)
param_scheduler[0].update(end=20)
param_scheduler[1].update(end=iterations, milestones=[133, 178])
custom_hooks[0].update(batches=20)
