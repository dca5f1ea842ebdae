"""TFA-FCOS, simplified, on the embedded benchmark: only the rows of the 30 novel classes learn; all else is frozen.

    ovd head-surgery work_dirs/fcos_base_shapes/final.pth --split data/shapes/annotations/split.json --part novel \
        --out work_dirs/fcos_base_shapes/init_novel.pth
    ovd train configs/tfa/shapes_fcos_novel.py
    ovd head-surgery work_dirs/fcos_base_shapes/final.pth --split data/shapes/annotations/split.json \
        --method combine --novel-checkpoint work_dirs/shapes_fcos_novel/final.pth \
        --out work_dirs/shapes_fcos_novel/combined.pth
    ovd test configs/tfa/shapes_fcos_finetune.py work_dirs/shapes_fcos_novel/combined.pth \
        --work-dir work_dirs/shapes_fcos_novel

The base rows are put beside the novel ones after training; each class is a yes or no of its own, so base scores are the
base detector's. Annotations of base classes are not used.
"""

from mmengine.config import read_base

with read_base():
    from .shapes_fcos_finetune import *

load_from = "work_dirs/fcos_base_shapes/init_novel.pth"

model["frozen"] = ["*"]
model["trainable"] = ["bbox_head.cls_logits"]
model["bbox_head"].update(learn="novel")
train_dataloader["dataset"].update(learn="novel")
