"""The same on the embedded benchmark: its own proposal network and its own small CLIP in place of public weights.

    ovd train configs/shapes/rpn.py
    ovd detect data/shapes/val2017 --model configs/clip_on_crops/shapes.py --words "dotted red star" "plain blue circle"

Finds what `ovd clip-on-crops configs/shapes/vild.py --objectness` does (docs/clip_on_crops.md): shapes.py is how it is
known that photos.py does what it says.
"""

from mmengine.config import read_base

with read_base():
    from .photos import *

from ovd.models.proposers import NetworkProposer

model["proposer"] = dict(
    type=NetworkProposer, config="configs/shapes/rpn.py", checkpoint="work_dirs/rpn/final.pth", max_per_image=300)
model["clip"].update(pretrained="shapes")
data_root = "data/shapes"
classes = None
class_head = "class_heads/shapes.safetensors"
