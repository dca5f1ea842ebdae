"""TFA on the embedded benchmark, first stage: Faster R-CNN with a cosine classifier of the 72 base classes.

Backbone, FPN, head widths, batch and iterations as in configs/shapes/vild.py; no masks. The regressor is shared by all
classes, as ViLD's is.

    ovd train configs/tfa/shapes_base.py
    ovd test configs/tfa/shapes_base.py work_dirs/shapes_base/final.pth

Of the figures, only base/* say something: there are no rows for novel classes yet. Next: shapes_finetune.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes import *
    from .._base_.models.shapes_tower import *
    from .._base_.models.tfa_faster_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.shapes_600 import *

from mmdet.models.roi_heads import ConvFCBBoxHead

for part in ("data_preprocessor", "backbone", "neck"):
    model[part] = tower[part]
model["rpn_head"].update(in_channels=width, feat_channels=32)
model["rpn_head"]["anchor_generator"].update(anchors)
model["roi_head"]["bbox_roi_extractor"].update(out_channels=width, featmap_strides=[4, 8, 16], finest_scale=28)
model["roi_head"]["bbox_roi_extractor"]["roi_layer"].update(sampling_ratio=2)
model["roi_head"]["bbox_head"].update(
    type=ConvFCBBoxHead, in_channels=width, num_shared_convs=1, conv_out_channels=width, num_shared_fcs=1,
    fc_out_channels=512, num_classes=72, reg_class_agnostic=True)
model["train_cfg"]["rpn"]["sampler"].update(num=64)
model["train_cfg"]["rpn_proposal"].update(nms_pre=200, max_per_img=60)
model["train_cfg"]["rcnn"]["sampler"].update(num=40, pos_fraction=0.4)
model["test_cfg"]["rpn"].update(nms_pre=400, max_per_img=100)
model["test_cfg"]["rcnn"].update(score_thr=1e-3)
text_only_pipeline[1].update(with_mask=False)
train_dataloader["dataset"].update(region_store=None, pipeline=text_only_pipeline)
test_evaluator.update(metric="bbox")
