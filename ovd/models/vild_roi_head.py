"""Mask R-CNN's second stage with distillation in training and diagnostics at test.

Shapes: N sampled RoIs or proposals, R cached regions (both of all images of the batch), G ground-truth boxes, D
embedding width, C classes, K logits.
"""

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ovd.errors import UserError
from ovd.models.losses import RegionDistillationLoss
from ovd.models.postprocess import class_wise_nms
from ovd.models.vild_head import one_label

MODES = ("text", "image", "both")


@MODELS.register_module()
class ViLDRoIHead(StandardRoIHead):
    """RoI head that learns from annotations, from CLIP's embeddings of cached regions, or from both (ViLD, sec. 3).

    The cached regions are the proposals that were embedded offline; ground-truth boxes are not among them. They share
    RoIAlign and one pass of the box head with the sampled RoIs: one batch of N + R keeps the device busy, and where the
    head has batch normalisation, its statistics are those of what it sees at test: proposals. (Two passes would be
    normalised with two sets of statistics in training, and with one running mixture of them at test.)

    Features are cast to float32 before RoIAlign: RoI coordinates take the features' type there, and half precision
    would round them by up to half a pixel (bfloat16: several pixels).

    Args:
        mode: ``"text"`` (classification only), ``"image"`` (distillation only) or ``"both"``.
        distillation: Config of :class:`~ovd.models.losses.RegionDistillationLoss`; None for its defaults. Not used
            where ``mode`` is ``"text"``.
        kwargs: As for mmdet's ``StandardRoIHead``. ``test_cfg.diagnostics=True`` adds ``pred_one_label`` and
            ``gt_pred_labels`` to the data samples.
    """

    def __init__(self, mode: str = "both", distillation: dict | None = None, **kwargs) -> None:
        if mode not in MODES:
            raise UserError(f"ViLD mode {mode!r} is not one of {', '.join(MODES)}")
        super().__init__(**kwargs)
        if self.with_mask and not self.mask_head.class_agnostic:
            raise UserError("the mask head must be class-agnostic to serve any vocabulary: set class_agnostic=True")
        self.mode = mode
        self.bbox_head.classify = mode != "image"
        self.distillation = None
        if mode != "text":
            self.distillation = MODELS.build(distillation or {"type": RegionDistillationLoss})

    def loss(self, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Losses of both heads, and ``loss_distill`` where the mode asks for it.

        Args:
            x: FPN levels ``[images, channels, h, w]``.
            rpn_results_list: Per image, proposals (``bboxes``) in input pixels.
            batch_data_samples: Per image, ``gt_instances`` and, unless ``mode`` is ``"text"``, ``regions``: ``bboxes
                [r, 4]`` in input pixels and unit ``embeddings [r, D]`` (r may be 0).
        """
        x = _full_precision(x)
        gt_instances, gt_ignored, _ = unpack_gt_instances(batch_data_samples)
        sampled = [self._sample(*image) for image in zip(rpn_results_list, gt_instances, gt_ignored)]
        regions = None if self.distillation is None else [_regions_of(sample) for sample in batch_data_samples]
        box = self.bbox_loss(x, sampled, regions)
        losses = dict(box["loss_bbox"])
        if self.with_mask:
            losses.update(self.mask_loss(x, sampled, box["bbox_feats"], gt_instances)["loss_mask"])
        return losses

    def _sample(self, proposals: InstanceData, gt: InstanceData, ignored: InstanceData) -> SamplingResult:
        proposals.priors = proposals.pop("bboxes")
        assigned = self.bbox_assigner.assign(proposals, gt, ignored)
        return self.bbox_sampler.sample(assigned, proposals, gt)

    def bbox_loss(self, x: tuple[Tensor], sampling_results: list[SamplingResult],
                  regions: list[InstanceData] | None = None) -> dict:
        """Box-head losses of the sampled RoIs, and distillation of the regions, from one pass of the shared layers."""
        head = self.bbox_head
        rois = bbox2roi([result.priors for result in sampling_results])
        count = len(rois)
        region_rois = [] if regions is None else [bbox2roi([image.bboxes.to(rois) for image in regions])]
        features = self.bbox_roi_extractor(x[:self.bbox_roi_extractor.num_inputs], torch.cat([rois, *region_rois]))
        trunk = head.trunk(features)
        embeddings = head.embed(trunk)
        losses = head.loss_and_target(head.classifier(embeddings[:count]) if head.classify else None,
                                      head.fc_reg(trunk[:count]), rois, sampling_results, self.train_cfg)["loss_bbox"]
        if regions is not None:
            teacher_RD = torch.cat([image.embeddings.float() for image in regions])
            losses["loss_distill"] = self.distillation(embeddings[count:], teacher_RD)
        return {"loss_bbox": losses, "bbox_feats": features[:count]}

    def predict(self, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList,
                rescale: bool = False) -> InstanceList:
        """Detections per image: ``bboxes``, ``scores``, ``labels`` and, with a mask head, ``masks``.

        With ``test_cfg.diagnostics``, from the same pass, on the data samples:

        - ``pred_one_label``: detections where every RoI votes for its highest class only (no masks);
        - ``gt_pred_labels``: long ``[g]``, the highest class at each box of ``gt_instances``, which are in original
        pixels.

        Args:
            rescale: Give boxes (and masks) in original pixels, not in input pixels.
        """
        x = _full_precision(x)
        metas = [sample.metainfo for sample in batch_data_samples]
        diagnose = bool(self.test_cfg.get("diagnostics", False))
        proposals = [result.bboxes for result in rpn_results_list]
        gt_boxes = [_gt_in_input_pixels(sample) for sample in batch_data_samples] if diagnose else []
        rois = bbox2roi(proposals + gt_boxes)
        if gt_boxes:
            rois[:, 0] %= len(proposals)
        logits, deltas = self.bbox_head(self.bbox_roi_extractor(x[:self.bbox_roi_extractor.num_inputs], rois))
        sizes = [len(boxes) for boxes in proposals + gt_boxes]
        rois, logits, deltas = (list(tensor.split(sizes)) for tensor in (rois, logits, deltas))
        number = len(proposals)
        results = [self._detect(*image, self.test_cfg) for image in zip(rois, logits, deltas, metas)]
        for index, sample in enumerate(batch_data_samples if diagnose else []):
            voted = self._detect(rois[index], logits[index], deltas[index], metas[index], self.test_cfg, one_label)
            voted.bboxes = _rescaled(voted.bboxes, metas[index]) if rescale else voted.bboxes
            del voted.roi_index
            sample.pred_one_label = voted
            sample.gt_pred_labels = logits[number + index][:, :self.bbox_head.num_classes].argmax(dim=1)
        if self.with_mask:
            self._add_masks(x, metas, results, rescale)
        else:
            for result, meta in zip(results, metas):
                result.bboxes = _rescaled(result.bboxes, meta) if rescale else result.bboxes
        for result in results:
            del result.roi_index
        return results

    def _add_masks(self, x: tuple[Tensor], metas: list[dict], results: list[InstanceData], rescale: bool) -> None:
        """Masks of the detections, in place. Boxes and masks know no classes, so each RoI's is made and pasted once."""
        distinct, indices = [], []
        for result in results:
            rois, index = result.roi_index.unique(return_inverse=True)
            boxes = result.bboxes.new_empty(len(rois), 4)
            boxes[index] = result.bboxes
            distinct.append(InstanceData(bboxes=boxes, labels=torch.zeros_like(rois)))
            indices.append(index)
        distinct = self.predict_mask(x, metas, distinct, rescale=rescale)
        for result, masked, index in zip(results, distinct, indices):
            result.bboxes, result.masks = masked.bboxes[index], masked.masks[index]

    def _detect(self, rois: Tensor, logits_NK: Tensor, deltas_N4: Tensor, meta: dict, cfg: dict, filter_scores=None,
                ) -> InstanceData:
        """Detections of one image in input pixels."""
        scores_NC = self.bbox_head.classifier.probabilities(logits_NK)
        if filter_scores is not None:
            scores_NC = filter_scores(scores_NC)
        boxes_N4 = self.bbox_head.decode(rois, deltas_N4, meta["img_shape"])
        return class_wise_nms(boxes_N4, scores_NC, cfg.score_thr, cfg.nms["iou_threshold"], cfg.max_per_img)


def _full_precision(levels: tuple[Tensor]) -> tuple[Tensor]:
    return tuple(level.float() for level in levels)


def _regions_of(sample) -> InstanceData:
    if "regions" not in sample:
        raise UserError("distillation needs cached regions, and the data has none: put LoadRegions and PackRegions "
                        "into the training pipeline, or set mode='text'")
    return sample.regions


def _scale(boxes: Tensor, meta: dict) -> Tensor:
    return boxes.new_tensor(meta["scale_factor"]).repeat(2)


def _rescaled(boxes: Tensor, meta: dict) -> Tensor:
    """Boxes of the network's input in original pixels."""
    return boxes / _scale(boxes, meta)


def _gt_in_input_pixels(sample) -> Tensor:
    if "bboxes" not in sample.get("gt_instances", ()):
        raise UserError("diagnostics need ground-truth boxes: put LoadAnnotations after Resize in the test pipeline, "
                        "or set test_cfg.rcnn.diagnostics=False")
    boxes = sample.gt_instances.bboxes
    return boxes * _scale(boxes, sample.metainfo)
