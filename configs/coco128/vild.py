"""ViLD on COCO128 with the 48/17 split: ResNet-50 of caffe style from ImageNet, few RoIs, for two cores.

    tools/train.py configs/coco128/vild.py
    tools/test.py configs/coco128/vild.py work_dirs/coco128_vild/final.pth --eval bbox segm --show-dir pictures

The whole chain, and what it reached: docs/real_photos.md. 200 iterations on 128 photos show that every part runs; for
figures that mean something see configs/vild/vild_r50_fpn_coco_48_17.py.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco128_48_17 import *
    from .._base_.models.vild_mask_rcnn_r50_fpn import *
    from .._base_.runtime import *
    from .._base_.schedules.coco128_200 import *

work_dir = "work_dirs/coco128_vild"
backbone_weights = "pretrained/resnet50_imagenet_caffe_bgr_fp16.safetensors"
head_norm = dict(type="GN", num_groups=32)  # a batch of two photos is too small for BN

# caffe style: a block's stride on its first 1x1 convolution, BGR images in 0..255 minus the mean
model["data_preprocessor"].update(mean=[103.939, 116.779, 123.68], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
model["backbone"].update(
    style="caffe", frozen_stages=2, norm_cfg=dict(type="BN", requires_grad=False),
    init_cfg=dict(type="Pretrained", checkpoint=backbone_weights))
model["neck"].update(norm_cfg=None)
model["roi_head"]["bbox_head"].update(num_shared_convs=2, norm_cfg=head_norm)
model["roi_head"]["bbox_head"]["classifier"].update(class_head=class_head, split=split, data_root=data_root)
model["roi_head"]["distillation"].update(warmup=20)
model["roi_head"]["mask_head"].update(num_convs=2, norm_cfg=None)
model["train_cfg"]["rpn_proposal"].update(nms_pre=500, max_per_img=200)
model["train_cfg"]["rcnn"]["sampler"].update(num=64)
model["test_cfg"]["rpn"].update(nms_pre=500, max_per_img=200)
model["test_cfg"]["rcnn"].update(max_per_img=100)
