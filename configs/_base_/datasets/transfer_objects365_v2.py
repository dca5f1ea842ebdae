"""Objects365 v2 val as a target of a detector trained elsewhere.

Its 365 classes are not those of v1. Settings as for v1: 1333 x 800, scores from 0.003, 300 detections an image, all of
which count. Expects in data_root: val/patch*/ and annotations/zhiyuan_objv2_val.json. That file says
images/v1/patch8/x.jpg for val/patch8/x.jpg, so:

    mkdir data/objects365_v2/images
    ln -s ../val data/objects365_v2/images/v1
    ln -s ../val data/objects365_v2/images/v2

Should it have boxes that are refused, `ovd build-zsl --split objects365_v2 --subset val --val-ann
zhiyuan_objv2_val.json --on-error skip` writes a file without them: --cfg-options
val_ann=annotations/zhiyuan_objv2_val_objects365_v2.json
"""

from mmengine.config import read_base

with read_base():
    from .transfer_objects365_v1 import *

data_root = "data/objects365_v2"
split = "objects365_v2"
val_ann = "annotations/zhiyuan_objv2_val.json"
val_prefix = ""

test_dataloader["dataset"].update(data_root=data_root, ann_file=val_ann, split=split, data_prefix=dict(img=val_prefix))
test_evaluator.update(data_root=data_root, ann_file=val_ann, split=split)
