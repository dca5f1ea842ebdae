"""The head of FCOS with a 1x1 classifier, so that a class is one row and a bias, for all levels alike.

Shapes: B images, M locations of all images and levels (level by level, in a level image by image), C classes, D width
of the towers, Q kinds of box quality.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import InstanceList, reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ovd.errors import UserError, nearest
from ovd.models.sylph.evidence import Evidence
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes
from ovd.vocabulary.splits import Split, get_split

QUALITIES = ("centerness", "iou")
_INIT = {"type": "Normal", "layer": "Conv2d", "std": 0.01,
         "override": {"type": "Normal", "name": "cls_logits", "std": 0.01, "bias_prob": 0.01}}


@MODELS.register_module()
class CodeFCOSHead(FCOSHead):
    """FCOS (Tian et al., 2019) as Sylph has it: mmdet's towers, assignment and losses, but

    - the classifier is a 1x1 convolution (:attr:`cls_logits`), whose rows are the base classes' :class:`ClassHead`;
    - distances are ``stride * relu(scale * x)``, with a learned scale a level, and quality is seen by the box tower;
    - box quality is centre-ness, the predicted IoU with the object, or both (their geometric mean); the weights of the
      GIoU loss are the true centre-ness in any case;
    - the loss takes any number of classes.

    Boxes know no classes.

    Args:
        in_channels: Of the pyramid's levels.
        split: Name, file or object; its base classes are the classifier's rows, in label order.
        data_root: Folder that relative files are relative to.
        class_head: File or object with the split's classes, to detect instead of the rows; None for the rows.
        class_agnostic: Learn "object" instead of classes (open-world detection).
        quality: Of :data:`QUALITIES`, one or both.
        loss_iou: Config of the loss of the predicted IoU.
        kwargs: As for mmdet's ``FCOSHead``.

    Raises:
        UserError: An unknown quality; a class head without some class of the split.
    """

    def __init__(self, in_channels: int, split: str | PathLike | Split, data_root: str = "",
                 class_head: str | PathLike | ClassHead | None = None, class_agnostic: bool = False,
                 quality: Sequence[str] = ("centerness",), loss_iou: dict | None = None, center_sampling: bool = True,
                 loss_bbox: dict | None = None, init_cfg: dict | None = None, **kwargs) -> None:
        if not isinstance(split, Split):
            path = Path(data_root, split)
            split = get_split(str(path) if path.is_file() else str(split))
        if class_head is not None and not isinstance(class_head, ClassHead):
            class_head = load_classes(Path(data_root, class_head))
        for name in quality:
            if name not in QUALITIES:
                raise UserError(f"bbox_head.quality: {name!r} is no box quality{nearest(name, QUALITIES)}")
        if not quality or isinstance(quality, str):
            raise UserError(f"bbox_head.quality={quality!r}: give a list of one or both of {', '.join(QUALITIES)}")
        self.quality = tuple(name for name in QUALITIES if name in quality)
        self.class_agnostic = class_agnostic
        self.base_names = ("object",) if class_agnostic else split.base
        super().__init__(num_classes=len(self.base_names), in_channels=in_channels, center_sampling=center_sampling,
                         loss_bbox=loss_bbox or {"type": "GIoULoss"}, init_cfg=init_cfg or _INIT, **kwargs)
        self.loss_iou = MODELS.build(loss_iou or {"type": "CrossEntropyLoss", "use_sigmoid": True})
        self.class_head = None if class_head is None else class_head.select(split.classes)

    def _init_predictor(self) -> None:
        self.cls_logits = nn.Conv2d(self.feat_channels, self.num_classes, 1)
        self.conv_reg = nn.Conv2d(self.feat_channels, 4, 3, padding=1)
        self.conv_iou = nn.Conv2d(self.feat_channels, 1, 3, padding=1) if "iou" in self.quality else None

    def _init_layers(self) -> None:
        super()._init_layers()
        if "centerness" not in self.quality:
            self.conv_centerness = None

    def own_head(self) -> ClassHead:
        """The classifier's rows as they are now, without a word about their space."""
        return ClassHead(self.base_names, self.cls_logits.weight[:, :, 0].mT, bias=self.cls_logits.bias, norm="linear",
                         provenance=tuple({"source": "detector"} for _ in self.base_names))

    def class_features(self, x: Tensor) -> Tensor:
        """What classes are told by, ``[B, D, H, W]``, from a pyramid level ``[B, in_channels, H, W]``."""
        for layer in self.cls_convs:
            x = layer(x)
        return x

    def forward_single(self, x: Tensor, scale: nn.Module, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """Class features ``[B, D, H, W]``, distances to the four sides ``[B, 4, H, W]`` in input pixels, and quality
        logits ``[B, Q, H, W]`` of one level."""
        box_x = x
        for layer in self.reg_convs:
            box_x = layer(box_x)
        distances = F.relu(scale(self.conv_reg(box_x)).float()) * stride
        parts = {"centerness": self.conv_centerness, "iou": self.conv_iou}
        quality = torch.cat([parts[name](box_x) for name in self.quality], dim=1)
        return self.class_features(x), distances, quality

    def loss_by_feat(self, features: list[Tensor], distances: list[Tensor], qualities: list[Tensor],
                     batch_gt_instances: InstanceList, batch_img_metas: list[dict],
                     batch_gt_instances_ignore: InstanceList | None = None) -> dict[str, Tensor]:
        """Losses of base training.

        Args:
            features, distances, qualities: Of the levels, as :meth:`forward` gives them.
            batch_gt_instances: Boxes in input pixels and labels.
        """
        points, labels_M, targets_M4 = self.assign(features, batch_gt_instances)
        if self.class_agnostic:
            labels_M = labels_M.clamp(max=0)
        losses = {"loss_cls": self.class_loss(torch.cat([_rows(self.cls_logits(x)) for x in features]), labels_M)}
        objects = (labels_M >= 0).nonzero()[:, 0]
        distances_N4 = torch.cat([_rows(x) for x in distances])[objects]
        quality_NQ = torch.cat([_rows(x) for x in qualities])[objects]
        targets_N4 = targets_M4[objects]
        centerness_N = self.centerness_target(targets_N4)
        # means over the processes, which all must ask for, also one whose images have no object
        number, total = _mean_count(len(objects), targets_N4), reduce_mean(centerness_N.sum()).clamp(min=1e-6)
        if not len(objects):
            return losses | {"loss_bbox": distances_N4.sum(), **{
                f"loss_{name}": quality_NQ.sum() for name in self.quality}}
        points_N2 = torch.cat([level.repeat(len(batch_gt_instances), 1) for level in points])[objects]
        boxes_N4 = self.bbox_coder.decode(points_N2, distances_N4)
        true_boxes_N4 = self.bbox_coder.decode(points_N2, targets_N4)
        losses["loss_bbox"] = self.loss_bbox(boxes_N4, true_boxes_N4, weight=centerness_N, avg_factor=total)
        if "centerness" in self.quality:
            losses["loss_centerness"] = self.loss_centerness(quality_NQ[:, 0], centerness_N, avg_factor=number)
        if "iou" in self.quality:
            overlaps_N = bbox_overlaps(boxes_N4.detach(), true_boxes_N4, is_aligned=True)
            losses["loss_iou"] = self.loss_iou(quality_NQ[:, -1], overlaps_N, avg_factor=number)
        return losses

    def evidence(self, levels: Sequence[Tensor], batch_img_metas: list[dict]) -> Evidence:
        """All that is known of a batch before its classes are named.

        Args:
            levels: Of the pyramid.
            batch_img_metas: With ``img_shape``, which boxes are clipped to.
        """
        features, distances, qualities = self(levels)
        points = torch.cat(self.prior_generator.grid_priors(
            [level.shape[-2:] for level in features], dtype=torch.float32, device=features[0].device))
        distances_BN4, quality_BNQ = (torch.cat([level.flatten(2) for level in maps], dim=2).mT.float()
                                      for maps in (distances, qualities))
        boxes_BN4 = torch.stack([self.bbox_coder.decode(points, of_image, max_shape=meta["img_shape"])
                                 for of_image, meta in zip(distances_BN4, batch_img_metas)])
        quality_BN = quality_BNQ.sigmoid().prod(dim=2) ** (1 / len(self.quality))
        inside_BN = (boxes_BN4[..., 2:] > boxes_BN4[..., :2]).all(dim=2)
        return Evidence(torch.cat([level.flatten(2) for level in features], dim=2).mT.float().contiguous(), boxes_BN4,
                        quality_BN * inside_BN, tuple(level[0, 0].numel() for level in features))

    def code_loss(self, levels: Sequence[Tensor], weights_CD: Tensor, bias_C: Tensor | None,
                  batch_gt_instances: InstanceList) -> Tensor:
        """Focal loss of an episode: classes are told by codes, everything that is none of them is background.

        Args:
            levels: Of the query images' pyramid.
            weights_CD, bias_C: The codes of the episode's classes.
            batch_gt_instances: Boxes of these classes in input pixels; a label is a row of the codes.
        """
        features = [self.class_features(x) for x in levels]
        labels_M = self.assign(features, batch_gt_instances)[1]
        weights_CD11 = weights_CD[:, :, None, None]
        return self.class_loss(torch.cat([_rows(F.conv2d(x, weights_CD11, bias_C)) for x in features]), labels_M)

    def class_loss(self, logits_MC: Tensor, labels_M: Tensor) -> Tensor:
        """Focal loss over any number of classes, by the number of locations on objects (the processes' mean)."""
        classes = logits_MC.shape[1]
        objects = labels_M >= 0
        number = _mean_count(int(objects.sum()), logits_MC)
        return self.loss_cls(logits_MC.float(), torch.where(objects, labels_M, classes), avg_factor=number)

    def assign(self, features: Sequence[Tensor],
               batch_gt_instances: InstanceList) -> tuple[list[Tensor], Tensor, Tensor]:
        """The locations of each level ``[H * W, 2]``, and of all locations the label (-1: background) and the distances
        to the sides of the object's box ``[M, 4]``, in input pixels.

        mmdet's assignment has :attr:`num_classes` for the background, which an episode's labels may exceed: they are
        moved past it and back.
        """
        sizes = [level.shape[-2:] for level in features]
        points = self.prior_generator.grid_priors(sizes, dtype=torch.float32, device=features[0].device)
        moved = [InstanceData(bboxes=gt.bboxes, labels=gt.labels + self.num_classes + 1) for gt in batch_gt_instances]
        labels, targets = self.get_targets(points, moved)
        labels_M = torch.cat(labels) - self.num_classes - 1
        return points, labels_M, torch.cat(targets)


def _rows(level: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B * H * W, C]``."""
    return level.permute(0, 2, 3, 1).flatten(0, 2)


def _mean_count(count: int, like: Tensor) -> Tensor:
    """The processes' mean of a count, at least 1."""
    return reduce_mean(torch.tensor(float(count), device=like.device)).clamp(min=1)
