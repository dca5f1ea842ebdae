"""Any words on any photos, without training: torchvision's Mask R-CNN finds boxes and masks, OpenAI's CLIP names them.

    ovd detect photos --model photos --words "zebra, traffic cone"
    ovd doctor configs/clip_on_crops/photos.py

The weights are public and come by themselves, once (docs/photos_model.md); there is no checkpoint, and photos.py trains
nothing. Every setting is an option: --cfg-options model.clip.pretrained=ViT-L/14 model.proposer.max_per_image=100
"""

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs, Resize

from ovd.models.crop_clip import CropClip
from ovd.models.torchvision_proposer import TorchvisionProposer

default_scope = "mmdet"

model = dict(
    type=CropClip,
    proposer=dict(
        type=TorchvisionProposer, weights="COCO_V1", min_size=800, max_size=1333, proposals=1000, objectness="mean",
        score_thr=0.1, nms_iou=0.7, max_per_image=50),
    clip=dict(pretrained="ViT-B/32", model=None, precision="auto", batch_size=None),
    recipe=dict(kind="clip", scales=(1.0, 1.5)),
    temperature=None,  # the CLIP's own
    test_cfg=dict(rcnn=dict(score_thr=1e-4, nms=dict(iou_threshold=0.5), max_per_img=100)))

# the model's own classes, which also compete with others in silence: a dataset's names (coco, lvis, voc, objects365)
# put into prompts, or a class head file
classes = "coco"
class_head = None
prompts = "vild"
# classes from boxes alone: a cosine to them of `tie` counts like the best of the model's own classes; logits a cosine
boxes = dict(tie=0.75, slope=40.0)

test_pipeline = [  # images as they are: crops are made of them, and the proposer resizes for itself
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale_factor=1.0),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
