"""TFA-FCOS, simplified, on COCO 60/20: only the rows of the 20 novel classes learn; all else is frozen.

    ovd head-surgery work_dirs/fcos_base_coco_60_20/final.pth --split 60_20 --part novel \
        --out work_dirs/fcos_base_coco_60_20/init_novel.pth
    tools/dist_train.sh configs/tfa/fcos_r50_fpn_coco_60_20_10shot_novel.py 8
    ovd head-surgery work_dirs/fcos_base_coco_60_20/final.pth --split 60_20 --method combine \
        --novel-checkpoint work_dirs/fcos_r50_fpn_coco_60_20_10shot_novel/final.pth \
        --out work_dirs/fcos_r50_fpn_coco_60_20_10shot_novel/combined.pth
    ovd test configs/tfa/fcos_r50_fpn_coco_60_20_10shot.py work_dirs/fcos_r50_fpn_coco_60_20_10shot_novel/combined.pth \
        --work-dir work_dirs/fcos_r50_fpn_coco_60_20_10shot_novel

The base rows are put beside the novel ones after training. Not yet run here at full size.
"""

from mmengine.config import read_base

with read_base():
    from .fcos_r50_fpn_coco_60_20_10shot import *

load_from = "work_dirs/fcos_base_coco_60_20/init_novel.pth"

model["frozen"] = ["*"]
model["trainable"] = ["bbox_head.cls_logits"]
model["bbox_head"].update(learn="novel")
train_dataloader["dataset"].update(learn="novel")
