"""ViLD on LVIS v1 (866 base, 337 novel classes) with SparK's ResNet-50, fine-tuned as SparK does.

All of the backbone is trained, batch normalisation included, with AdamW and layer-wise learning-rate decay; everything
else, the 20 epochs too, is vild_r50_fpn_lvis_866_337.py. Not yet run here at full size.

    tools/dist_train.sh configs/spark/vild_spark_r50_fpn_lvis_866_337.py 8
    tools/dist_test.sh configs/spark/vild_spark_r50_fpn_lvis_866_337.py \
        work_dirs/vild_spark_r50_fpn_lvis_866_337/final.pth 8 --eval bbox segm

The backbone's weights: see docs/spark.md; the caches: configs/_base_/datasets/lvis_866_337.py.
"""

from mmengine.config import read_base

with read_base():
    from ..vild.vild_r50_fpn_lvis_866_337 import *
    from .._base_.schedules.spark_adamw import *

from ovd.engine.precise_bn import PreciseBNHook

backbone_weights = "pretrained/spark_resnet50.safetensors"

model["backbone"].update(
    frozen_stages=-1, norm_cfg=norm_cfg, norm_eval=False,
    init_cfg=dict(type="Pretrained", checkpoint=backbone_weights))
param_scheduler[0] = warmup
param_scheduler[1].update(gamma=0.25)
custom_hooks = [dict(type=PreciseBNHook, batches=200)]
