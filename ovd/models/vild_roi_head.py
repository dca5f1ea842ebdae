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
from ovd.models.region_detection import MODES, RegionDetection, RegionEmbeddings, check_weights, full_precision
from ovd.models.vild_head import ViLDBBoxHead, ViLDImageHead


@MODELS.register_module()
class ViLDRoIHead(RegionDetection, StandardRoIHead):
    """RoI head that learns from annotations, from CLIP's embeddings of cached regions, or from both (ViLD, sec. 3).

    The cached regions are the proposals that were embedded offline; ground-truth boxes are not among them. They share
    RoIAlign with the sampled RoIs and, where one head learns from both, one pass of it: one batch of N + R keeps the
    device busy, and where the head has batch normalisation, its statistics are those of what it sees at test:
    proposals. (Two passes would be normalised with two sets of statistics in training, and with one running mixture of
    them at test.)

    In an ensemble the sampled RoIs pass through ``bbox_head`` only and the regions through ``image_head`` only.

    Args:
        mode: ``"text"`` (classification only), ``"image"`` (distillation only), ``"both"`` (one head learns from both)
            or ``"ensemble"`` (a head for each: ViLD, sec. 3.4).
        distillation: Config of :class:`~ovd.models.losses.RegionDistillationLoss`; None for its defaults. Not used
            where ``mode`` is ``"text"``.
        image_head: What the ensemble's image head has other than ``bbox_head``: its type, widths, classifier settings.
        kwargs: As for mmdet's ``StandardRoIHead``. ``test_cfg.diagnostics=True`` adds ``pred_one_label`` and
            ``gt_pred_labels`` to the data samples; score fusion: see :class:`RegionDetection`.

    Raises:
        UserError: Unknown mode, an image head outside an ensemble, class-specific masks, weights outside [0, 1].
    """

    def __init__(self, bbox_head: dict, mode: str = "both", distillation: dict | None = None,
                 image_head: dict | None = None, **kwargs) -> None:
        check_mode(mode, image_head)
        check_weights(kwargs.get("test_cfg"))
        super().__init__(bbox_head=text_head_config(bbox_head, mode), **kwargs)
        if self.with_mask and not self.mask_head.class_agnostic:
            raise UserError("the mask head must be class-agnostic to serve any vocabulary: set class_agnostic=True")
        self.mode = mode
        self.bbox_head.classify = mode != "image"
        self.image_head = None
        if mode == "ensemble":
            self.image_head = MODELS.build(image_head_config(bbox_head, image_head))
        self.distillation = None
        if mode != "text":
            self.distillation = MODELS.build(distillation or {"type": RegionDistillationLoss})

    @property
    def text_heads(self) -> list[ViLDBBoxHead]:
        return [self.bbox_head]

    @property
    def image_heads(self) -> list[ViLDImageHead]:
        return [] if self.image_head is None else [self.image_head]

    def loss(self, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Losses of both heads, and ``loss_distill`` where the mode asks for it.

        Args:
            x: FPN levels ``[images, channels, h, w]``.
            rpn_results_list: Per image, proposals (``bboxes``) in input pixels.
            batch_data_samples: Per image, ``gt_instances`` and, unless ``mode`` is ``"text"``, ``regions``: ``bboxes
                [r, 4]`` in input pixels and unit ``embeddings [r, D]`` (r may be 0).
        """
        x = full_precision(x)
        gt_instances, gt_ignored, _ = unpack_gt_instances(batch_data_samples)
        sampled = [self._sample(*image) for image in zip(rpn_results_list, gt_instances, gt_ignored)]
        regions = None if self.distillation is None else [regions_of(sample) for sample in batch_data_samples]
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
        """Box-head losses of the sampled RoIs, and distillation of the regions, from one RoIAlign."""
        rois = bbox2roi([result.priors for result in sampling_results])
        region_rois = [] if regions is None else [region_rois_of(regions, rois)]
        features = self.bbox_roi_extractor(x[:self.bbox_roi_extractor.num_inputs], torch.cat([rois, *region_rois]))
        logits, deltas, student_RD = pass_heads(self.bbox_head, self.image_head, features, len(rois))
        losses = self.bbox_head.loss_and_target(logits, deltas, rois, sampling_results, self.train_cfg)["loss_bbox"]
        if regions is not None:
            losses["loss_distill"] = self.distillation(student_RD, teacher_of(regions))
        return {"loss_bbox": losses, "bbox_feats": features[:len(rois)]}

    def region_embeddings(self, x: tuple[Tensor], rois: Tensor, metas: list[dict]) -> RegionEmbeddings:
        features = self.bbox_roi_extractor(x[:self.bbox_roi_extractor.num_inputs], rois)
        embeddings, deltas = self.bbox_head.regions(features)
        seen = (embeddings, *(head.embed(head.trunk(features)) for head in self.image_heads))
        return RegionEmbeddings((seen,), rois, deltas)


def pass_heads(text_head: ViLDBBoxHead, image_head: ViLDImageHead | None, features: Tensor, count: int,
               ) -> tuple[Tensor | None, Tensor, Tensor]:
    """One stage's heads in training.

    Args:
        image_head: None where ``text_head`` also learns from the regions.
        features: RoI features of the ``count`` sampled RoIs, then of the R regions.

    Returns:
        Logits ``[count, K]`` (None where the head does not classify), deltas ``[count, 4]``, embeddings ``[R, D]``. All
        parameters are in the graph, whatever R is, so that every process of a distributed run has the same graph.
    """
    if image_head is None:
        trunk = text_head.trunk(features)
        embeddings = text_head.embed(trunk)
        trunk, embeddings, student_RD = trunk[:count], embeddings[:count], embeddings[count:]
    else:
        trunk = text_head.trunk(features[:count])
        embeddings = text_head.embed(trunk)
        student_RD = image_head.embed(image_head.trunk(features[count:]))
    return text_head.classifier(embeddings) if text_head.classify else None, text_head.fc_reg(trunk), student_RD


def check_mode(mode: str, image_head: dict | None) -> None:
    """Refuse an unknown mode, and an image head that the mode would not use."""
    if mode not in MODES:
        raise UserError(f"ViLD mode {mode!r} is not one of {', '.join(MODES)}")
    if image_head is not None and mode != "ensemble":
        raise UserError(f"mode {mode!r} has no image head: remove roi_head.image_head, or set mode='ensemble'")


def text_head_config(bbox_head: dict, mode: str) -> dict:
    """The box head's config in a mode: ViLD-image has no background."""
    if mode != "image":
        return bbox_head
    return dict(bbox_head, classifier=dict(bbox_head["classifier"], background=False))


def image_head_config(bbox_head: dict, image_head: dict | None) -> dict:
    """The image head's config: that of the box head with what ``image_head`` has other, and without background."""
    changes = dict(image_head or {})
    classifier = {**bbox_head["classifier"], **changes.pop("classifier", {}), "background": False}
    return {**bbox_head, "type": ViLDImageHead, **changes, "classifier": classifier}


def regions_of(sample) -> InstanceData:
    """The cached regions of a data sample."""
    if "regions" not in sample:
        raise UserError("distillation needs cached regions, and the data has none: put LoadRegions and PackRegions "
                        "into the training pipeline, or set mode='text'")
    return sample.regions


def region_rois_of(regions: list[InstanceData], like: Tensor) -> Tensor:
    """Boxes of the images' regions as RoIs ``[R, 5]``, of the type of ``like``."""
    return bbox2roi([image.bboxes.to(like) for image in regions])


def teacher_of(regions: list[InstanceData]) -> Tensor:
    """CLIP's embeddings of the regions, float32 ``[R, D]``."""
    return torch.cat([image.embeddings.float() for image in regions])
