"""The detector: Mask R-CNN whose classes are given by a class head."""

import torch.nn.functional as F
from mmdet.models.detectors import MaskRCNN
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor

from ovd.errors import UserError
from ovd.models.cached_clip import CachedClipScore
from ovd.models.dense_clip import rgb_images
from ovd.models.region_detection import MODES, RegionEvidence, Rescore
from ovd.models.vild_roi_head import ViLDRoIHead
from ovd.stores.class_heads import ClassHead

__all__ = ["MODES", "ViLD"]


@MODELS.register_module()
class ViLD(MaskRCNN):
    """Open-vocabulary Mask R-CNN (Gu et al., "Open-vocabulary Object Detection via Vision and Language Knowledge
    Distillation", ICLR 2022).

    Layers with ``SyncBN`` need no other config on one device or on CPUs: mmengine's runner turns them into plain batch
    normalisation when the run is not distributed, and :mod:`ovd.engine.runner` for several CPU processes, as PyTorch's
    SyncBatchNorm works on accelerators only.

    Args:
        mode: ``"text"``, ``"image"``, ``"both"`` or ``"ensemble"``: what the box head learns from (see
            :class:`~ovd.models.vild_roi_head.ViLDRoIHead`).
        dense_clip: Config of a :class:`~ovd.models.dense_clip.DenseClipScore`, a further opinion at test; None for
            none.
        cached_clip: Whether cached regions are the proposals at test and CLIP's embeddings of them such an opinion
            (:class:`~ovd.models.cached_clip.CachedClipScore`); the test pipeline must load them.
        kwargs: As for mmdet's ``MaskRCNN``.
    """

    def __init__(self, *, mode: str = "both", roi_head: dict, dense_clip: dict | None = None,
                 cached_clip: bool = False, **kwargs) -> None:
        super().__init__(roi_head=dict(roi_head, mode=mode), **kwargs)
        if cached_clip and dense_clip is not None:
            raise UserError("model: dense_clip and cached_clip are each the one further opinion: leave one out")
        self.cached_clip = CachedClipScore() if cached_clip else None
        self.dense_clip = None if dense_clip is None else MODELS.build(dense_clip)
        self._check_dense_clip(self.roi_head.classifier.head)

    def _check_dense_clip(self, head: ClassHead | None) -> None:
        """Refuse a class head that the dense CLIP cannot score, before images are."""
        if self.dense_clip is not None and head is not None:
            self.dense_clip.head_for(head)

    roi_head: ViLDRoIHead

    @property
    def class_names(self) -> tuple[str, ...]:
        """The current vocabulary; a detection's label is an index into it."""
        return self.roi_head.classifier.names

    def set_class_head(self, head: ClassHead) -> None:
        """Detect the classes of ``head`` from now on, whatever the detector was trained with.

        Raises:
            UserError: The head's embeddings have another width than the detector's, or do not suit the dense CLIP; the
                vocabulary stays what it was.
        """
        self._check_dense_clip(head)
        self.roi_head.set_class_head(head)

    def rescorer(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Rescore | None:
        """A further opinion on this batch's regions, as :meth:`ViLDRoIHead.predict` takes it; None for none."""
        if self.cached_clip is not None:
            return lambda rois_N5: self.cached_clip.probabilities(
                batch_data_samples, rois_N5, self.roi_head.classifier.head, self.roi_head.reference_C)
        if self.dense_clip is None:
            return None
        images = rgb_images(self.data_preprocessor, batch_inputs, batch_data_samples)
        return lambda rois_N5: self.dense_clip.probabilities(images, rois_N5, self.roi_head.classifier.head,
                                                             self.roi_head.reference_C)

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The data samples with ``pred_instances`` (see :meth:`ViLDRoIHead.predict`); proposals that they already have
        are used."""
        x = self.extract_feat(batch_inputs)
        proposals = self._proposals(x, batch_data_samples)
        results = self.roi_head.predict(x, proposals, batch_data_samples, rescale=rescale,
                                        rescore=self.rescorer(batch_inputs, batch_data_samples))
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _proposals(self, x: tuple[Tensor], batch_data_samples: SampleList) -> InstanceList:
        if self.cached_clip is not None:
            return self.cached_clip.proposals(batch_data_samples)
        if batch_data_samples[0].get("proposals") is None:
            return self.rpn_head.predict(x, batch_data_samples, rescale=False)
        return [sample.proposals for sample in batch_data_samples]

    def evidence(self, batch_inputs: Tensor, batch_data_samples: SampleList,
                 keep_features: bool = False) -> RegionEvidence:
        """What a batch of images shows, whatever the vocabulary: many class heads are tried on it in one pass.

        Args:
            keep_features: Keep what masks are made of.

        Raises:
            UserError: The detector has a further opinion, which depends on the vocabulary.
        """
        if self.cached_clip is not None or self.dense_clip is not None:
            raise UserError("model: dense_clip and cached_clip are of one vocabulary: leave them out to try several")
        x = self.extract_feat(batch_inputs)
        boxes = [found.bboxes for found in self._proposals(x, batch_data_samples)]
        return self.roi_head.evidence(x, boxes, [sample.metainfo for sample in batch_data_samples], keep_features)

    def detect(self, evidence: RegionEvidence, batch_data_samples: SampleList, masks: bool = False) -> InstanceList:
        """Detections of the current class head in original pixels, as :meth:`predict` gives them.

        Args:
            masks: With masks, of evidence that kept the features.
        """
        return self.roi_head.detect(evidence, [sample.metainfo for sample in batch_data_samples], masks=masks)

    def embed_boxes(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Tensor:
        """Unit embeddings ``[n, D]`` of the boxes in ``gt_instances`` (input pixels), image after image.

        They are what the detector compares with its class head: of several heads and stages the normalised mean.
        """
        x = self.extract_feat(batch_inputs)
        boxes = [sample.gt_instances.bboxes for sample in batch_data_samples]
        stages = self.roi_head.evidence(x, boxes, [sample.metainfo for sample in batch_data_samples]).found.stages
        return F.normalize(sum(embeddings for stage in stages for embeddings in stage), dim=-1)
