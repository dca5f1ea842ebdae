"""A detector without training: a proposer finds boxes, a CLIP names the crops of them, whatever the words.

Shapes: N regions of all images of a batch, C classes, D embedding width, h x w size of masks in their boxes.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from ovd.clip.crops import CropRecipe
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import ClipModel, load_clip
from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.models.fusion import geometric_fusion
from ovd.models.proposers import Proposer
from ovd.models.region_detection import check_weights, in_original_pixels, suppressed
from ovd.stores.class_heads import ClassHead
from ovd.stores.scoring import sigmoid

_PIXELS = 1 << 26  # of masks that are pasted at a time


@dataclass(frozen=True)
class CropEvidence:
    """Regions of a batch of images, cropped and embedded and not yet named.

    Attributes:
        rows_ND: CLIP's unit embeddings.
        boxes_N4: xyxy in input pixels.
        objectness_N: 0 to 1.
        sizes: How many of the regions each image has.
        masks_Nhw: Where in its box an object is, probabilities; None where no masks are wanted.
    """

    rows_ND: Tensor
    boxes_N4: Tensor
    objectness_N: Tensor
    sizes: tuple[int, ...]
    masks_Nhw: Tensor | None = None


@MODELS.register_module()
class PlainImages(BaseDataPreprocessor):
    """Images as they are: uint8 RGB, each in its own size, a list of them on the model's device."""

    pad_size_divisor = 1

    def forward(self, data: dict, training: bool = False) -> dict:
        """``inputs``: BGR ``[3, H, W]``, as pipelines load them."""
        data = self.cast_data(data)
        return {**data, "inputs": [image.flip(0) for image in data["inputs"]]}


class CropEncoder(nn.Module):
    """A CLIP's view of boxes. Its weights are frozen, so copies of a model share one.

    Args:
        clip: On the CPU; its image tower moves with the model, its text tower does not.
        recipe: How boxes are cropped.
        batch_size: Crops in a forward pass; None for 256 on a GPU, which computes as many however few there are, and
            32 elsewhere.
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"``, or ``"auto"``: fp16 on a GPU, fp32 elsewhere.
    """

    def __init__(self, clip: ClipModel, recipe: CropRecipe, batch_size: int | None, precision: str) -> None:
        super().__init__()
        if precision not in _TYPES:
            raise UserError(f"clip.precision {precision!r} is not one of {', '.join(_TYPES)}")
        self.clip, self.recipe, self.batch_size, self.precision = clip, recipe, batch_size, precision
        self.visual = clip.model.visual
        self._encoder: RegionEncoder | None = None
        self._lock = threading.Lock()  # passes of several threads would get in each other's way

    def __deepcopy__(self, memo: dict) -> "CropEncoder":
        return self

    def forward(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Unit embeddings ``[N, D]`` of boxes ``[n, 4]`` of each uint8 RGB image ``[3, H, W]``, image after image.

        Raises:
            UserError: A box that is not finite, inverted, without area or outside its image.
        """
        device = images[0].device
        with self._lock:
            encoder = self._on(device)
            rows = [encoder(image.permute(1, 2, 0), boxes_n4.float().cpu().numpy())
                    for image, boxes_n4 in zip(images, boxes)]
        rows_ND = torch.from_numpy(np.concatenate(rows)).float().to(device)
        return F.normalize(rows_ND, dim=-1)  # half precision moved them off the sphere by a little

    def _on(self, device: torch.device) -> RegionEncoder:
        if self._encoder is None or self._encoder.clip.device != device:
            kind = _TYPES[self.precision] or (torch.float16 if device.type == "cuda" else torch.float32)
            self.visual.to(device, kind)
            clip = replace(self.clip, device=device, dtype=kind)
            size = self.batch_size or (256 if device.type == "cuda" else None)
            self._encoder = RegionEncoder(clip, self.recipe, size)
        return self._encoder


_TYPES = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class CropHead(nn.Module):
    """From crops' embeddings to detections: what a RoI head is in other detectors.

    Scores: the geometric mean of the class's probability and the box's objectness
    (:class:`~ovd.models.crop_detector.CropDetector`). The probability is the CLIP's own: softmax over the classes of
    cos / T, or, for a CLIP that was trained with sigmoids, the sigmoid of each class by itself.

    Args:
        temperature: T.
        test_cfg: ``score_thr``, ``nms.iou_threshold``, ``max_per_img`` and ``scores``, as other RoI heads have them.
    """

    def __init__(self, embed_dim: int, temperature: float, with_mask: bool, test_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        check_weights(test_cfg)
        self.test_cfg = ConfigDict(test_cfg)
        self.with_mask = with_mask
        self.classifier = CosineClassifier(embed_dim=embed_dim, temperature_test=temperature, background=False)

    @property
    def reference_C(self) -> Tensor | None:
        """The classes with which those that were added compete, bool ``[C]``; None where all compete with all."""
        return ~self.classifier.is_added if self._independent else None

    @property
    def _independent(self) -> bool:
        return self.test_cfg.get("scores", "softmax") == "independent"

    def scores(self, rows_ND: Tensor, objectness_N: Tensor) -> Tensor:
        """Of each region for each class, ``[N, C]``."""
        logits_NC = self.classifier(rows_ND)
        head = self.classifier.head
        if head.stats.get("scores") == "sigmoid":
            chances_NC = sigmoid(logits_NC + head.clip_bias)
        else:
            chances_NC = self.classifier.probabilities(logits_NC, self._independent)
        half_C = torch.full((chances_NC.shape[1],), 0.5, device=chances_NC.device)
        return geometric_fusion(chances_NC, objectness_N[:, None].expand_as(chances_NC), half_C)

    def detect(self, evidence: CropEvidence, metas: list[dict], masks: bool) -> InstanceList:
        """Detections in each image, in original pixels."""
        scores_NC = self.scores(evidence.rows_ND, evidence.objectness_N)
        parts = [evidence.boxes_N4.split(evidence.sizes), scores_NC.split(evidence.sizes)]
        if masks:
            parts.append(evidence.masks_Nhw.split(evidence.sizes))
        results = []
        for boxes_n4, scores_nC, *masks_nhw, meta in zip(*parts, metas):
            result = suppressed(boxes_n4, scores_nC, self.classifier, self.test_cfg, self._independent)
            result.bboxes = in_original_pixels(result.bboxes, meta)
            if masks:
                result.masks = pasted(masks_nhw[0], in_original_pixels(boxes_n4, meta), result.roi_index,
                                      tuple(meta["ori_shape"][:2]))
            del result.roi_index
            results.append(result)
        return results


def pasted(masks_Nhw: Tensor, boxes_N4: Tensor, rows_M: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of the regions ``rows_M`` in their image of ``size`` (height, width), bool ``[M, H, W]``."""
    rows, index = rows_M.unique(return_inverse=True)  # detections of one region share its mask
    whole = torch.zeros(len(rows), *size, dtype=torch.bool, device=masks_Nhw.device)
    step = max(1, _PIXELS // (size[0] * size[1]))
    for first in range(0, len(rows), step):
        part = rows[first:first + step]
        whole[first:first + step] = paste_masks_in_image(masks_Nhw[part, None], boxes_N4[part], size)[:, 0] > 0.5
    return whole[index]


@MODELS.register_module()
class CropClip(BaseDetector):
    """CLIP on cropped regions (ViLD, sec. 3.1), with proposals made and crops embedded as images come.

    ``ovd clip-on-crops`` does the same from stores of proposals and embeddings, and scores alike.

    Args:
        proposer: Config of a :class:`~ovd.models.proposers.Proposer`.
        clip: ``pretrained``, ``model`` and ``allow_untrained`` of :func:`ovd.clip.towers.load_clip`; ``batch_size`` and
            ``precision`` of :class:`CropEncoder`.
        recipe: Of a :class:`~ovd.clip.crops.CropRecipe`.
        temperature: See :class:`CropHead`; None for the CLIP's own (0.01 for OpenAI's).
        test_cfg: ``rcnn``: see :class:`CropHead`.

    Raises:
        UserError: Weights that cannot be had, settings that do not fit.
    """

    def __init__(self, proposer: dict, clip: dict, recipe: Mapping[str, Any], test_cfg: Mapping[str, Any],
                 temperature: float | None = None, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor or {"type": PlainImages})
        self.proposer: Proposer = MODELS.build(proposer)
        settings = {"batch_size": None, "precision": "auto", **clip}
        batch_size, precision = settings.pop("batch_size"), settings.pop("precision")
        clip = load_clip(settings.pop("pretrained"), **settings)
        self.eyes = CropEncoder(clip, CropRecipe(**recipe), batch_size, precision)
        self.roi_head = CropHead(clip.embed_dim, temperature or 1 / clip.logit_scale, self.proposer.makes_masks,
                                 test_cfg["rcnn"])
        self.requires_grad_(False).eval()

    @property
    def clip(self) -> ClipModel:
        """The CLIP, as it was loaded."""
        return self.eyes.clip

    @property
    def class_names(self) -> tuple[str, ...]:
        """The current vocabulary; a detection's label is an index into it."""
        return self.roi_head.classifier.names

    def set_class_head(self, head: ClassHead) -> None:
        """Detect the classes of ``head`` from now on.

        Raises:
            UserError: A head of another CLIP; the vocabulary stays what it was.
        """
        if head.stats.get("clip") not in (None, self.clip.fingerprint):
            head.check(clip=self.clip.fingerprint)
        self.roi_head.classifier.set_class_head(head)

    @torch.no_grad()
    def evidence(self, batch_inputs: Sequence[Tensor], batch_data_samples: SampleList,
                 keep_features: bool = False) -> CropEvidence:
        """What a batch of images shows, whatever the vocabulary: many class heads are tried on it in one pass.

        Args:
            batch_inputs: uint8 RGB ``[3, H, W]`` each.
            keep_features: Keep what masks are made of.
        """
        found = self.proposer(batch_inputs, masks=keep_features)
        rows_ND = self.eyes(batch_inputs, [one.boxes_n4 for one in found])
        masks = torch.cat([one.masks_nhw for one in found]) if keep_features else None
        return CropEvidence(rows_ND, torch.cat([one.boxes_n4 for one in found]),
                            torch.cat([one.objectness_n for one in found]), tuple(len(one.boxes_n4) for one in found),
                            masks)

    @torch.no_grad()
    def detect(self, evidence: CropEvidence, batch_data_samples: SampleList, masks: bool = False) -> InstanceList:
        """Detections of the current class head in original pixels: ``bboxes``, ``scores``, ``labels``.

        Args:
            masks: ``masks`` too, of evidence that was kept for them.
        """
        return self.roi_head.detect(evidence, [sample.metainfo for sample in batch_data_samples], masks)

    @torch.no_grad()
    def embed_boxes(self, batch_inputs: Sequence[Tensor], batch_data_samples: SampleList) -> Tensor:
        """Unit embeddings ``[n, D]`` of the boxes in ``gt_instances`` (input pixels), image after image."""
        return self.eyes(batch_inputs, [sample.gt_instances.bboxes for sample in batch_data_samples])

    def predict(self, batch_inputs: Sequence[Tensor], batch_data_samples: SampleList,
                rescale: bool = True) -> SampleList:
        """The data samples with ``pred_instances`` in original pixels, with masks if the proposer makes them."""
        masks = self.roi_head.with_mask
        found = self.detect(self.evidence(batch_inputs, batch_data_samples, masks), batch_data_samples, masks)
        return self.add_pred_to_datasample(batch_data_samples, found)

    def loss(self, batch_inputs: Any, batch_data_samples: Any) -> dict[str, Tensor]:
        """Raises UserError: there is nothing to train."""
        raise UserError("CropClip is not trained: its parts have their weights from elsewhere")

    def extract_feat(self, batch_inputs: Any) -> Any:
        """There are no features of whole images."""
        raise NotImplementedError

    def _forward(self, batch_inputs: Any, batch_data_samples: Any = None) -> Any:
        raise NotImplementedError
