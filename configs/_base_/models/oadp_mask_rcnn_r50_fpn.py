"""OADP on Mask R-CNN R50-FPN: ViLD-ensemble, and distillation from blocks and whole images (Wang et al., CVPR 2023).

The gains of the released configuration, in this project's terms: losses on embeddings are sums over the D entries and
means over regions, so 128 on the mean over D = 512 is 0.25, and 0.5 on the sum over 2 images a device is 1. Relations
of blocks 8; asymmetric losses 16 and 4. `scaler` and `bias` of the multi-label classifiers come from the class head
where it has a bias (OADP's multi-label prompts, imported), else they are 100 and 25. RoIs go to the box that
they overlap most, without DetPro's low-quality matches. Trained in half precision there: `--amp`.

A method's config sets ``model["roi_head"]["bbox_head"]["classifier"]`` as for vild_mask_rcnn_r50_fpn.py; all heads
follow it. The dataset needs ``block_store`` and ``global_store`` (`ovd embed-regions CONFIG --what blocks` and
`globals`), and `regions` of kind adaptive with masked attention: see docs/oadp.md.
"""

from mmengine.config import read_base

with read_base():
    from .vild_ensemble_mask_rcnn_r50_fpn import *

from ovd.models import BlockHead, GlobalHead, OADPRoIHead

model["roi_head"].update(
    type=OADPRoIHead,
    block_head=dict(
        type=BlockHead, in_channels=256, roi_feat_size=7, fc_out_channels=1024,
        distillation=dict(weight=0.25, warmup=200), relation=dict(weight=8.0, warmup=200),
        classification=dict(weight=16.0, warmup=1000, gamma_neg=4.0, gamma_pos=0.0), classifier=dict()),
    global_head=dict(
        type=GlobalHead, in_channels=256, distillation=dict(weight=1.0, warmup=200),
        classification=dict(weight=4.0, warmup=2000, gamma_neg=4.0, gamma_pos=0.0, clip=0.05), classifier=dict()))
model["train_cfg"]["rcnn"]["assigner"].update(match_low_quality=False)
