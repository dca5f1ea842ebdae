"""Boxes and masks of whatever class from torchvision's Mask R-CNN, whose weights are public.

Shapes: n boxes of an image of H x W pixels, K categories with background first.
"""

import math
import pickle
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights as _Weights
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image, nms
from torchvision.ops.poolers import initLevelMapper

from ovd.engine.public_weights import not_fetched, of_torch
from ovd.errors import UserError, nearest
from ovd.models.proposers import Proposed, Proposer

OBJECTNESS = ("mean", "background", "rpn")


@dataclass(frozen=True)
class Candidates:
    """What a public detector's box head made of its own proposals, one box each, before duplicates are merged.

    Attributes:
        boxes_n4: xyxy in pixels of the network's input, clipped to the image.
        labels_n: The best category of each, 1 to K.
        background_n, rpn_n: Probability that it shows no category; the proposal's own score.
        levels, size: The pyramid, and (height, width) of the image in the network's input.
    """

    boxes_n4: Tensor
    labels_n: Tensor
    background_n: Tensor
    rpn_n: Tensor
    levels: dict[str, Tensor]
    size: tuple[int, int]


@MODELS.register_module()
class TorchvisionProposer(Proposer):
    """Torchvision's Mask R-CNN (ResNet-50, FPN, version 2), asked for boxes and masks and not for its categories.

    Each of its proposals becomes one box, that of its best category after regression; boxes that overlap a more
    object-like one are left out, whatever the categories. The mask is that category's.

    Args:
        weights: Torchvision's name of them (``"COCO_V1"``), or a file of them; None for random ones, which find
            nothing that means anything.
        min_size, max_size: Shorter and longer side of the network's input in pixels, as torchvision has them.
        proposals: That the box head looks at.
        objectness: ``"background"``: 1 less the probability of background, which is sharp for what looks like a
            category of the weights and low for all else; ``"rpn"``: the proposal's own score, which is less so; or
            the ``"mean"`` of both.
        score_thr: Least objectness.
        nms_iou: Boxes that overlap a better one more than this are left out.
        max_per_image: Boxes kept.

    Raises:
        UserError: Unknown settings; weights that cannot be had.
    """

    makes_masks = True

    def __init__(self, weights: str | None = "COCO_V1", min_size: int = 800, max_size: int = 1333,
                 proposals: int = 1000, objectness: str = "mean", score_thr: float = 0.1, nms_iou: float = 0.7,
                 max_per_image: int = 50) -> None:
        super().__init__()
        if objectness not in OBJECTNESS:
            raise UserError(f"proposer: no objectness {objectness!r}{nearest(objectness, OBJECTNESS)}")
        if min(min_size, proposals, max_per_image) < 1 or max_size < min_size:
            raise UserError(f"proposer: min_size {min_size}, max_size {max_size}, proposals {proposals}, max_per_image "
                            f"{max_per_image}: give whole numbers from 1 on, and max_size not below min_size")
        self.objectness, self.score_thr = objectness, score_thr
        self.nms_iou, self.max_per_image = nms_iou, max_per_image
        state = None if weights is None else _weights(weights)
        self.network = maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=len(_Weights.COCO_V1.meta["categories"]),
            min_size=min_size, max_size=max_size, rpn_pre_nms_top_n_test=proposals, rpn_post_nms_top_n_test=proposals)
        if state is not None:
            try:
                self.network.load_state_dict(state)
            except RuntimeError as error:
                raise UserError(f"{weights}: no weights of torchvision's maskrcnn_resnet50_fpn_v2 "
                                f"({str(error).splitlines()[-1].strip()})") from None
        for pool in (self.network.roi_heads.box_roi_pool, self.network.roi_heads.mask_roi_pool):
            # else the pool infers them from the first image that it sees, wrongly from a very narrow one
            pool.scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
            pool.map_levels = initLevelMapper(2, 5, pool.canonical_scale, pool.canonical_level)
        self.eval().requires_grad_(False)

    def forward(self, images: Sequence[Tensor], masks: bool = False) -> list[Proposed]:
        return [self._propose(image, masks) for image in images]  # one at a time: a batch would pad them

    def candidates(self, image: Tensor) -> Candidates:
        """One box for each proposal in a uint8 RGB image ``[3, H, W]``."""
        batch = self._input(image)
        levels = self.network.backbone(batch.tensors)
        rois_n4, rpn_n = self._proposals(batch, levels)
        heads = self.network.roi_heads
        pooled = heads.box_head(heads.box_roi_pool(levels, [rois_n4], batch.image_sizes))
        logits_nK, deltas = heads.box_predictor(pooled)
        chances_nK = logits_nK.softmax(dim=-1)
        labels_n = chances_nK[:, 1:].argmax(dim=1) + 1
        boxes_nK4 = heads.box_coder.decode(deltas, [rois_n4])
        boxes_n4 = boxes_nK4[torch.arange(len(labels_n), device=labels_n.device), labels_n]
        boxes_n4 = clip_boxes_to_image(boxes_n4, batch.image_sizes[0])
        return Candidates(boxes_n4, labels_n, chances_nK[:, 0], rpn_n, levels, batch.image_sizes[0])

    def _propose(self, image: Tensor, masks: bool) -> Proposed:
        found = self.candidates(image)
        objectness_n = {"mean": (1 - found.background_n + found.rpn_n) / 2, "background": 1 - found.background_n,
                        "rpn": found.rpn_n}[self.objectness].clamp(0, 1)
        boxes_n4 = clip_boxes_to_image(resize_boxes(found.boxes_n4, found.size, image.shape[-2:]), image.shape[-2:])
        usable_n = (boxes_n4[:, 2:] > boxes_n4[:, :2]).all(dim=1) & (objectness_n >= self.score_thr)
        rows = usable_n.nonzero()[:, 0]
        rows = rows[nms(boxes_n4[rows], objectness_n[rows], self.nms_iou)[:self.max_per_image]]
        return Proposed(boxes_n4[rows], objectness_n[rows], self._masks(found, rows) if masks else None)

    def _input(self, image: Tensor) -> ImageList:
        """As torchvision makes it, but a channel at a time: an image of 50 megapixels would take gigabytes; and an
        image that is narrower than a pixel at the network's size gets one."""
        transform = self.network.transform
        height, width = image.shape[-2:]
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        size = [max(1, math.floor(height * scale)), max(1, math.floor(width * scale))]
        resized = torch.cat([F.interpolate(channel[None, None].float() / 255, size, mode="bilinear",
                                           align_corners=False)[0] for channel in image])
        return ImageList(transform.batch_images([transform.normalize(resized)], transform.size_divisible),
                         [tuple(size)])

    def _proposals(self, batch: ImageList, levels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes ``[n, 4]`` in the network's input and their scores: torchvision's RPN, which keeps the scores to
        itself."""
        rpn, features = self.network.rpn, list(levels.values())
        scores, deltas = rpn.head(features)
        counts = [math.prod(level[0].shape) for level in scores]
        anchors = rpn.anchor_generator(batch, features)
        scores, deltas = concat_box_prediction_layers(scores, deltas)
        boxes = rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
        (boxes_n4,), (scores_n,) = rpn.filter_proposals(boxes, scores, batch.image_sizes, counts)
        return boxes_n4, scores_n

    def _masks(self, found: Candidates, rows: Tensor) -> Tensor:
        heads = self.network.roi_heads
        if not len(rows):
            side = 2 * heads.mask_roi_pool.output_size[0]
            return found.boxes_n4.new_zeros(0, side, side)
        pooled = heads.mask_roi_pool(found.levels, [found.boxes_n4[rows]], [found.size])
        logits = heads.mask_predictor(heads.mask_head(pooled))
        return maskrcnn_inference(logits, [found.labels_n[rows]])[0][:, 0]


def _weights(name: str) -> dict[str, Tensor]:
    """Weights by torchvision's name, fetched where they are not here yet, or of a file. Nothing is unpickled but
    tensors."""
    names = [one.name for one in _Weights]
    try:
        if Path(name).suffix or Path(name).exists():
            return torch.load(name, map_location="cpu", weights_only=True)
        if name not in names:
            raise UserError(f"proposer: torchvision has no weights {name!r}{nearest(name, names)}")
        with redirect_stdout(sys.stderr):  # torch says there what it downloads
            return _Weights[name].get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{name}: no weights, or damaged; fetch the file again") from None
    except (OSError, RuntimeError) as error:  # no network, no such file, a download that was cut off
        if name not in names:
            raise UserError(f"{name}: cannot be read ({error})") from None
        raise not_fetched([of_torch("", _Weights[name].url, round(_Weights[name].meta["_file_size"]))],
                          _first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
