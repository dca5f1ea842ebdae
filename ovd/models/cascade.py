"""Cascade R-CNN's second stage (Cai & Vasconcelos 2018) with ViLD's heads: boxes refined and scored stage by stage.

Shapes: N RoIs, R cached regions (both of all images of the batch), C classes.
"""

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.models.losses import RegionDistillationLoss
from ovd.models.region_detection import RegionDetection, RegionEmbeddings, check_weights, full_precision
from ovd.models.vild_head import ViLDBBoxHead, ViLDImageHead
from ovd.models.vild_roi_head import (
    check_mode,
    image_head_config,
    pass_heads,
    region_rois_of,
    regions_of,
    teacher_of,
    text_head_config,
)


@MODELS.register_module()
class ViLDCascadeRoIHead(RegionDetection, CascadeRoIHead):
    """Each stage has a text head with its own background and, in an ensemble, an image head (DetPro's cascade).

    Scores are the mean of the stages' fused probabilities, boxes those of the last stage. Every stage is distilled on
    the same cached regions, as they are: refinement is for boxes that are matched with annotations. RoIAlign has no
    weights, so the regions pass it once for all stages.

    Args:
        bbox_head: One config for all stages, which differ in their ``target_stds`` only.
        mode, distillation, image_head: As for :class:`~ovd.models.vild_roi_head.ViLDRoIHead`, for each stage.
        stage_loss_weights: Of each stage's losses, distillation included; as many as there are stages.
        stage_target_stds: Standard deviations of each stage's box targets: later ones are smaller.
        kwargs: As for mmdet's ``CascadeRoIHead``, with one config for the RoI extractors of all stages.

    Raises:
        UserError: As for ``ViLDRoIHead``; stages without a standard deviation or a training setting.
    """

    def __init__(self, bbox_head: dict, mode: str = "both", distillation: dict | None = None,
                 image_head: dict | None = None, stage_loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
                 stage_target_stds: Sequence[Sequence[float]] = (
                     (0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
                 **kwargs) -> None:
        check_mode(mode, image_head)
        check_weights(kwargs.get("test_cfg"))
        stages = len(stage_loss_weights)
        train_cfg = kwargs.get("train_cfg")
        if len(stage_target_stds) != stages:
            raise UserError(f"a cascade of {stages} stage_loss_weights needs as many stage_target_stds, not "
                            f"{len(stage_target_stds)}")
        if train_cfg is not None and (isinstance(train_cfg, dict) or len(train_cfg) != stages):
            raise UserError(f"train_cfg.rcnn of a cascade is a list of settings, one for each of its {stages} stages")
        text_head = text_head_config(bbox_head, mode)
        super().__init__(num_stages=stages, stage_loss_weights=stage_loss_weights, bbox_head=[
            dict(text_head, bbox_coder=dict(text_head["bbox_coder"], target_stds=list(stds)))
            for stds in stage_target_stds], **kwargs)
        if self.with_mask and not all(head.class_agnostic for head in self.mask_head):
            raise UserError("the mask heads must be class-agnostic to serve any vocabulary: set class_agnostic=True")
        self.mode = mode
        for head in self.bbox_head:
            head.classify = mode != "image"
        self.image_head = nn.ModuleList()
        if mode == "ensemble":
            self.image_head.extend(MODELS.build(image_head_config(bbox_head, image_head)) for _ in range(stages))
        self.distillation = nn.ModuleList()  # one a stage: each counts the iterations of its warm-up
        if mode != "text":
            self.distillation.extend(MODELS.build(distillation or {"type": RegionDistillationLoss})
                                     for _ in range(stages))

    @property
    def text_heads(self) -> list[ViLDBBoxHead]:
        return list(self.bbox_head)

    @property
    def image_heads(self) -> list[ViLDImageHead]:
        return list(self.image_head)

    def loss(self, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Losses of stage ``i`` under names with ``s{i}.`` in front; arguments as of :meth:`ViLDRoIHead.loss`."""
        x = full_precision(x)
        gt_instances, gt_ignored, metas = unpack_gt_instances(batch_data_samples)
        regions = [regions_of(sample) for sample in batch_data_samples] if len(self.distillation) else None
        region_features = None
        boxes = [result.bboxes for result in rpn_results_list]
        losses = {}
        for stage in range(self.num_stages):
            self.current_stage = stage
            sampled = [self._sample(stage, *image) for image in zip(boxes, gt_instances, gt_ignored)]
            rois = bbox2roi([result.priors for result in sampled])
            features, region_features = self._extract(stage, x, rois, regions, region_features)
            found, deltas = self._stage_loss(stage, features, rois, sampled, regions)
            if self.with_mask:
                found.update(self.mask_loss(stage, x, sampled, gt_instances)["loss_mask"])
            weight = self.stage_loss_weights[stage]
            losses.update({f"s{stage}.{name}": value * weight if "loss" in name else value
                           for name, value in found.items()})
            if stage < self.num_stages - 1:
                boxes = self._next_boxes(stage, rois, deltas.detach(), sampled, metas)
        return losses

    def _sample(self, stage: int, boxes: Tensor, gt: InstanceData, ignored: InstanceData) -> SamplingResult:
        proposals = InstanceData(priors=boxes)
        assigned = self.bbox_assigner[stage].assign(proposals, gt, ignored)
        return self.bbox_sampler[stage].sample(assigned, proposals, gt)

    def _extract(self, stage: int, x: tuple[Tensor], rois: Tensor, regions: list[InstanceData] | None,
                 region_features: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """RoI features of the sampled RoIs, then of the regions; and the latter by themselves, for the next stage."""
        extractor = self.bbox_roi_extractor[stage]
        levels = x[:extractor.num_inputs]
        if regions is None:
            return extractor(levels, rois), None
        if region_features is None:
            features = extractor(levels, torch.cat([rois, region_rois_of(regions, rois)]))
            return features, features[len(rois):]
        return torch.cat([extractor(levels, rois), region_features]), region_features

    def _stage_loss(self, stage: int, features: Tensor, rois: Tensor, sampled: list[SamplingResult],
                    regions: list[InstanceData] | None) -> tuple[dict, Tensor]:
        head = self.bbox_head[stage]
        image_head = self.image_head[stage] if len(self.image_head) else None
        logits, deltas, student_RD = pass_heads(head, image_head, features, len(rois))
        losses = head.loss_and_target(logits, deltas, rois, sampled, self.train_cfg[stage])["loss_bbox"]
        if regions is not None:
            losses["loss_distill"] = self.distillation[stage](student_RD, teacher_of(regions))
        return losses, deltas

    def _next_boxes(self, stage: int, rois: Tensor, deltas_N4: Tensor, sampled: list[SamplingResult],
                    metas: list[dict]) -> list[Tensor]:
        """Refined boxes by image, without the ground truth that was added to the sampled: the next stage adds it."""
        refined = self._refine(stage, rois, deltas_N4, metas)[:, 1:].split([len(result.priors) for result in sampled])
        kept = []
        for result, boxes in zip(sampled, refined):
            is_gt = result.pos_is_gt.new_zeros(len(boxes), dtype=torch.bool)
            is_gt[:len(result.pos_is_gt)] = result.pos_is_gt.bool()
            kept.append(boxes[~is_gt])
        return kept

    def _refine(self, stage: int, rois: Tensor, deltas_N4: Tensor, metas: list[dict]) -> Tensor:
        """RoIs ``[N, 5]`` with the stage's deltas applied, clipped each to its image."""
        refined = rois.clone()
        for index, meta in enumerate(metas):
            rows = rois[:, 0] == index
            refined[rows, 1:] = self.bbox_head[stage].decode(rois[rows], deltas_N4[rows], meta["img_shape"])
        return refined

    def region_embeddings(self, x: tuple[Tensor], rois: Tensor, metas: list[dict]) -> RegionEmbeddings:
        stages = []
        deltas = None
        for stage in range(self.num_stages):
            if deltas is not None:
                rois = self._refine(stage - 1, rois, deltas, metas)
            extractor = self.bbox_roi_extractor[stage]
            features = extractor(x[:extractor.num_inputs], rois)
            embeddings, deltas = self.bbox_head[stage].regions(features)
            image_heads = self.image_head[stage:stage + 1]
            stages.append((embeddings, *(head.embed(head.trunk(features)) for head in image_heads)))
        return RegionEmbeddings(tuple(stages), rois, deltas)
