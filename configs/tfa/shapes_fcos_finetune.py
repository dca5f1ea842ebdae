"""TFA-FCOS on the embedded benchmark: all class rows, distances and centre-ness of Sylph's base detector learn from
K shots of each class; backbone and both towers are frozen.

    ovd head-surgery work_dirs/fcos_base_shapes/final.pth --split data/shapes/annotations/split.json \
        --out work_dirs/fcos_base_shapes/init.pth
    ovd train configs/tfa/shapes_fcos_finetune.py
    ovd test configs/tfa/shapes_fcos_finetune.py work_dirs/shapes_fcos_finetune/final.pth

First stage: configs/sylph/fcos_base_shapes.py. The shots are made as for shapes_finetune.py. Its simplified form is
shapes_fcos_novel.py.
"""

from mmengine.config import read_base

with read_base():
    from ..sylph.fcos_base_shapes import *
    from .._base_.schedules.tfa_shapes import *

from ovd.data.fine_tuning import FineTuningDataset
from ovd.models import FineTunedFCOSHead

load_from = "work_dirs/fcos_base_shapes/init.pth"

model["frozen"] = ["backbone", "neck", "bbox_head.*_convs"]
model["bbox_head"].update(type=FineTunedFCOSHead, learn="all")
train_dataloader["dataset"].update(type=FineTuningDataset, ann_file="shots/5shot_seed0.json", learn="all")
