"""ViLD on the embedded benchmark: one head that learns from base annotations and from CLIP's cached embeddings.

Small enough for two cores: the small CLIP's convolutional tower as backbone (it plays the part of ImageNet or SoCo
weights), FPN of width 64, 40 sampled RoIs and 40 distilled regions an image. Part of `make demo`; by itself:

    ovd train configs/shapes/vild.py
    ovd test configs/shapes/vild.py work_dirs/vild/final.pth --eval bbox segm
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.models.shapes_tower import *
    from .._base_.runtime import *
    from .._base_.schedules.shapes_600 import *

model["mode"] = "both"
for part in ("data_preprocessor", "backbone", "neck"):
    model[part] = tower[part]
model["rpn_head"].update(in_channels=width, feat_channels=32)
model["rpn_head"]["anchor_generator"].update(anchors)
for part in ("bbox", "mask"):
    model["roi_head"][f"{part}_roi_extractor"].update(out_channels=width, featmap_strides=[4, 8, 16], finest_scale=28)
    model["roi_head"][f"{part}_roi_extractor"]["roi_layer"].update(sampling_ratio=2)
model["roi_head"]["bbox_head"].update(
    in_channels=width, num_shared_convs=1, conv_out_channels=width, num_shared_fcs=1, fc_out_channels=512,
    norm_cfg=None)
model["roi_head"]["bbox_head"]["classifier"].update(
    class_head=class_head, split=split, data_root=data_root, embed_dim=128, temperature_train=0.02,
    temperature_test=0.02)
model["roi_head"]["distillation"].update(weight=2.0, warmup=50)  # base AP50 stays within a point of ViLD-text
model["roi_head"]["mask_head"].update(num_convs=1, in_channels=width, conv_out_channels=32, norm_cfg=None)
model["train_cfg"]["rpn"]["sampler"].update(num=64)
model["train_cfg"]["rpn_proposal"].update(nms_pre=200, max_per_img=60)
model["train_cfg"]["rcnn"]["sampler"].update(num=40, pos_fraction=0.4)
model["test_cfg"]["rpn"].update(nms_pre=400, max_per_img=100)
model["test_cfg"]["rcnn"].update(max_per_img=100, diagnostics=True)
