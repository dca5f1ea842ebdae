"""From regions to detections: what the plain and the cascaded RoI head do alike at test, and which parts they have.

Shapes: N regions of all images of the batch, D embedding width, C classes, K logits (C, or C + 1 with background).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.models.fusion import base_novel_weights, geometric_fusion
from ovd.models.postprocess import class_wise_nms, nms_with_budgets
from ovd.models.vild_head import ViLDBBoxHead, ViLDImageHead, one_label
from ovd.stores.class_heads import ClassHead

MODES = ("text", "image", "both", "ensemble")
SCORES = ("softmax", "independent")

# from RoIs [N, 5] (image index, xyxy in input pixels) to a further opinion on them, probabilities [N, C]
Rescore = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RegionEmbeddings:
    """What the heads see in N regions, whatever the vocabulary.

    Attributes:
        stages: For each stage of a cascade (a plain head has one), the text head's unit embeddings ``[N, D]`` and,
            where there is an image head, that one's.
        rois_N5: What the last stage looked at: image index, xyxy in input pixels.
        deltas_N4: The last stage's refinement of these.
    """

    stages: tuple[tuple[Tensor, ...], ...]
    rois_N5: Tensor
    deltas_N4: Tensor


@dataclass(frozen=True)
class RegionEvidence:
    """Regions of a batch of images, seen and not yet named: how many each image has, and what the heads see in them.

    ``features``, FPN levels, are kept where masks are to be made of what will be found; None otherwise.
    """

    found: RegionEmbeddings
    sizes: tuple[int, ...]
    features: tuple[Tensor, ...] | None = None


class RegionDetection:
    """Prediction and vocabulary of a RoI head; mixed into mmdet's, which bring training and masks.

    Scores: ``p_text`` of the text head (softmax with background) and, in an ensemble, ``p_img`` of the image head
    (softmax over the classes) are fused as ``p_text^w p_img^(1-w)``, with w = lambda for base classes and 1 - lambda
    for the others (ViLD, sec. 3.4: each head is trusted for what it has learned). The stages of a cascade are then
    averaged, and a further opinion is fused likewise, as ``p^(1-a) q^a`` (F-VLM, Kuo et al. 2023, sec. 3.3).

    Settings in ``test_cfg``, all in [0, 1]:

    - ``score_lambda``: lambda, 2/3;
    - ``fixed_lambda``: one w for all classes instead, for vocabularies of which few names are base by name (DetPro's
      transfer to other datasets: 0.6);
    - ``rescore_alpha``, ``rescore_beta``: a for base classes and for the others (0.35 and 0.65, F-VLM's on LVIS).

    ``scores="independent"`` there lets a class that was added compete with the base classes and the background only,
    and gives added classes a budget of detections of their own: base classes keep their detections, to the bit,
    whatever is added (:meth:`CosineClassifier.probabilities`). The default is ``"softmax"``, over all classes.
    """

    @property
    def text_heads(self) -> list[ViLDBBoxHead]:
        """The heads that classify and regress, by stage."""
        raise NotImplementedError

    @property
    def image_heads(self) -> list[ViLDImageHead]:
        """The ensemble's image heads, by stage; empty without one."""
        raise NotImplementedError

    def region_embeddings(self, x: tuple[Tensor], rois: Tensor, metas: list[dict]) -> RegionEmbeddings:
        """Pass RoIs ``[N, 5]`` through all heads, up to their classifiers.

        Args:
            x: FPN levels in full precision.
        """
        raise NotImplementedError

    def _logits(self, found: RegionEmbeddings) -> tuple[tuple[Tensor, ...], ...]:
        """Logits of every stage: the text head's ``[N, K]`` and, with an image head, that one's ``[N, C]``."""
        heads = [self.text_heads, self.image_heads] if self.image_heads else [self.text_heads]
        return tuple(tuple(head.classifier(embeddings_ND) for head, embeddings_ND in zip(stage, embeddings))
                     for stage, embeddings in zip(zip(*heads), found.stages))

    @property
    def classifier(self) -> CosineClassifier:
        """Knows the current vocabulary."""
        return self.text_heads[0].classifier

    def set_class_head(self, head: ClassHead) -> None:
        """Replace the vocabulary of all heads (:meth:`CosineClassifier.set_class_head`)."""
        for part in (*self.text_heads, *self.image_heads):
            part.set_class_head(head)

    def region_probabilities(self, x: tuple[Tensor], rois: Tensor, batch_data_samples: SampleList,
                             rescore: Rescore | None = None) -> tuple[Tensor, Tensor]:
        """Class probabilities ``[N, C]`` of any regions, as detections are scored with, and the last deltas ``[N, 4]``.

        Args:
            x: FPN levels.
            rois: ``[N, 5]``: image index, xyxy in input pixels.
        """
        found = self.region_embeddings(full_precision(x), rois, [sample.metainfo for sample in batch_data_samples])
        return self._fuse(self._logits(found), None if rescore is None else rescore(found.rois_N5)), found.deltas_N4

    def _fuse(self, stages: tuple[tuple[Tensor, ...], ...], opinion_NC: Tensor | None) -> Tensor:
        """Logits of heads and stages, and a further opinion, to probabilities ``[N, C]`` in the logits' precision."""
        is_base_C = self.classifier.is_base
        scores_NC = sum(self._fuse_heads(logits, is_base_C) for logits in stages) / len(stages)
        if opinion_NC is None:
            return scores_NC
        weight_C = base_novel_weights(is_base_C, 1 - self.test_cfg.get("rescore_alpha", 0.35),
                                      1 - self.test_cfg.get("rescore_beta", 0.65))
        return geometric_fusion(scores_NC, opinion_NC, weight_C)

    @property
    def independent(self) -> bool:
        """Whether added classes leave those of base classes alone."""
        return self.test_cfg.get("scores", "softmax") == "independent"

    @property
    def reference_C(self) -> Tensor | None:
        """The classes with which those that were added compete, bool ``[C]``; None where all compete with all."""
        return ~self.classifier.is_added if self.independent else None

    def _fuse_heads(self, logits: tuple[Tensor, ...], is_base_C: Tensor) -> Tensor:
        text_NC = self.classifier.probabilities(logits[0], self.independent)
        if len(logits) == 1:
            return text_NC
        image_NC = self.image_heads[0].classifier.probabilities(logits[1], self.independent)
        weight = self.test_cfg.get("fixed_lambda")
        if weight is None:
            score_lambda = self.test_cfg.get("score_lambda", 2 / 3)
            weight = base_novel_weights(is_base_C, score_lambda, 1 - score_lambda)
        return geometric_fusion(text_NC, image_NC, weight)

    def predict(self, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList,
                rescale: bool = False, rescore: Rescore | None = None) -> InstanceList:
        """Detections per image: ``bboxes``, ``scores``, ``labels`` and, with a mask head, ``masks``.

        With ``test_cfg.diagnostics``, from the same pass, on the data samples:

        - ``pred_one_label``: detections where every RoI votes for its highest class only (no masks);
        - ``gt_pred_labels``: long ``[g]``, the highest class at each box of ``gt_instances``, which are in original
        pixels.

        Args:
            rescale: Give boxes (and masks) in original pixels, not in input pixels.
            rescore: A further opinion on all regions, ground-truth boxes of the diagnostics included.
        """
        x = full_precision(x)
        metas = [sample.metainfo for sample in batch_data_samples]
        diagnose = bool(self.test_cfg.get("diagnostics", False))
        proposals = [result.bboxes for result in rpn_results_list]
        gt_boxes = [_gt_in_input_pixels(sample) for sample in batch_data_samples] if diagnose else []
        rois = bbox2roi(proposals + gt_boxes)
        if gt_boxes:
            rois[:, 0] %= len(proposals)
        found = self.region_embeddings(x, rois, metas)
        logits = self._logits(found)
        opinion_NC = None if rescore is None else rescore(found.rois_N5)
        sizes = [len(boxes) for boxes in proposals + gt_boxes]
        split = [tensor.split(sizes) for tensor in (found.rois_N5, self._fuse(logits, opinion_NC), found.deltas_N4)]
        results = [self._detect(*image) for image in zip(*split, metas)]
        if diagnose:
            for sample, meta, rois_n5, scores_nC, deltas_n4 in zip(batch_data_samples, metas, *split):
                voted = self._detect(rois_n5, one_label(scores_nC), deltas_n4, meta)
                voted.bboxes = in_original_pixels(voted.bboxes, meta) if rescale else voted.bboxes
                del voted.roi_index
                sample.pred_one_label = voted
            self._classify_gt(logits, opinion_NC, batch_data_samples, [len(boxes) for boxes in gt_boxes])
        return self._finish(x if self.with_mask else None, metas, results, rescale)

    def evidence(self, x: tuple[Tensor], boxes: list[Tensor], metas: list[dict],
                 keep_features: bool = False) -> RegionEvidence:
        """All about boxes in input pixels (``[n, 4]`` for each image) that does not depend on the vocabulary.

        Args:
            x: FPN levels.
            keep_features: Keep them too, for masks.
        """
        x = full_precision(x)
        found = self.region_embeddings(x, bbox2roi(boxes), metas)
        return RegionEvidence(found, tuple(map(len, boxes)), x if keep_features else None)

    def detect(self, evidence: RegionEvidence, metas: list[dict], rescale: bool = True,
               masks: bool = False) -> InstanceList:
        """Detections of the current vocabulary in each image: ``bboxes``, ``scores``, ``labels``.

        Args:
            masks: ``masks`` too; the evidence has the features.
        """
        found = evidence.found
        scores_NC = self._fuse(self._logits(found), None)
        results = []
        for *image, meta in zip(*(tensor.split(evidence.sizes) for tensor in (found.rois_N5, scores_NC,
                                                                              found.deltas_N4)), metas):
            results.append(self._detect(*image, meta))
        return self._finish(evidence.features if masks else None, metas, results, rescale)

    def _finish(self, x: tuple[Tensor] | None, metas: list[dict], results: list[InstanceData],
                rescale: bool) -> InstanceList:
        """Boxes in the pixels that are asked for, and masks from features, where there are some."""
        if x is not None:
            results = self._with_masks(x, metas, results, rescale)
        else:
            for result, meta in zip(results, metas):
                result.bboxes = in_original_pixels(result.bboxes, meta) if rescale else result.bboxes
        for result in results:
            del result.roi_index
        return results

    def _with_masks(self, x: tuple[Tensor], metas: list[dict], results: list[InstanceData],
                    rescale: bool) -> list[InstanceData]:
        """Detections with masks. Where scores are independent, those of added classes are made apart: what else is in
        a batch changes the rounding, and a pixel at the edge of a mask with it."""
        apart = [self.classifier.is_added[result.labels] for result in results]
        if not self.independent or not any(is_added.any() for is_added in apart):
            self._add_masks(x, metas, results, rescale)
            return results
        parts = [[result[is_added == which] for result, is_added in zip(results, apart)] for which in (False, True)]
        for part in parts:
            self._add_masks(x, metas, part, rescale)
        joined = []
        for both, is_added in zip(zip(*parts), apart):
            order = is_added.long().argsort(stable=True).argsort()
            joined.append(InstanceData.cat(list(both))[order])
        return joined

    def _classify_gt(self, stages: tuple[tuple[Tensor, ...], ...], opinion_NC: Tensor | None, samples: SampleList,
                     sizes: list[int]) -> None:
        """Add ``gt_pred_labels`` to the samples; their boxes are the last rows of the logits.

        In float64: in float32, all classes of a region that looks like background to the text head can be 0.
        """
        first = len(stages[0][0]) - sum(sizes)
        stages = tuple(tuple(logits[first:].double() for logits in stage) for stage in stages)
        labels = self._fuse(stages, None if opinion_NC is None else opinion_NC[first:]).argmax(dim=1)
        for sample, labels_g in zip(samples, labels.split(sizes)):
            sample.gt_pred_labels = labels_g

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

    def _detect(self, rois_N5: Tensor, scores_NC: Tensor, deltas_N4: Tensor, meta: dict) -> InstanceData:
        """Detections of one image in input pixels."""
        boxes_N4 = self.text_heads[-1].decode(rois_N5, deltas_N4, meta["img_shape"])
        return suppressed(boxes_N4, scores_NC, self.classifier, self.test_cfg, self.independent)


def suppressed(boxes_N4: Tensor, scores_NC: Tensor, classifier: CosineClassifier, cfg: Mapping[str, Any],
               independent: bool) -> InstanceData:
    """Detections of one image: the best of the classes that are shown, added ones with a budget of their own where
    scores are independent.

    Args:
        cfg: ``score_thr``, ``nms.iou_threshold``, ``max_per_img``.
    """
    settings = (cfg["score_thr"], cfg["nms"]["iou_threshold"], cfg["max_per_img"])
    shown = classifier.num_shown
    if shown < scores_NC.shape[1]:
        scores_NC = scores_NC[:, :shown].contiguous()
    if independent:
        return nms_with_budgets(boxes_N4, scores_NC, ~classifier.is_added[:shown], *settings)
    return class_wise_nms(boxes_N4, scores_NC, *settings)


def full_precision(levels: tuple[Tensor]) -> tuple[Tensor]:
    """FPN levels in float32: RoIAlign gives coordinates the features' type, and half precision would round them by up
    to half a pixel (bfloat16: several pixels)."""
    return tuple(level.float() for level in levels)


def check_weights(test_cfg: dict | None) -> None:
    """Refuse weights of the score fusion outside [0, 1], and unknown kinds of scores.

    Raises:
        UserError: Names the setting.
    """
    if (scores := (test_cfg or {}).get("scores", "softmax")) not in SCORES:
        raise UserError(f"test_cfg.rcnn.scores={scores!r} is not one of {', '.join(SCORES)}")
    for name in ("score_lambda", "fixed_lambda", "rescore_alpha", "rescore_beta"):
        value = (test_cfg or {}).get(name)
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise UserError(f"test_cfg.rcnn.{name}={value!r} is no number between 0 and 1")


def _scale(boxes: Tensor, meta: dict) -> Tensor:
    return boxes.new_tensor(meta["scale_factor"]).repeat(2)


def in_original_pixels(boxes: Tensor, meta: dict) -> Tensor:
    """Boxes of the network's input in original pixels."""
    return boxes / _scale(boxes, meta)


def _gt_in_input_pixels(sample) -> Tensor:
    if "bboxes" not in sample.get("gt_instances", ()):
        raise UserError("diagnostics need ground-truth boxes: put LoadAnnotations after Resize in the test pipeline, "
                        "or set test_cfg.rcnn.diagnostics=False")
    boxes = sample.gt_instances.bboxes
    return boxes * _scale(boxes, sample.metainfo)
