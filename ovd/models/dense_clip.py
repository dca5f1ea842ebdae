"""A frozen CLIP's opinion on the regions that a detector scores, from CLIP's own map of the test image.

Shapes: B images of a batch, N regions of all of them, C classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor, nn

from ovd.clip.dense import DenseEncoder
from ovd.clip.towers import load_clip
from ovd.engine.config import walk
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes


@MODELS.register_module()
class DenseClipScore(nn.Module):
    """CLIP's class probabilities of regions, by RoIAlign on its dense features (F-VLM, Kuo et al., ICLR 2023).

    It fits any trained detector: it has no part in training, and its weights are not in the detector's state dict. How
    much it counts is in ``test_cfg.rcnn`` (``rescore_alpha``, ``rescore_beta``; see
    :class:`~ovd.models.region_detection.RegionDetection`).

    Args:
        pretrained, model, precision: The CLIP, see :func:`ovd.clip.towers.load_clip`.
        class_embeddings: Class head file of this CLIP, where it is not the one whose class head the detector has.
        data_root: Folder that ``class_embeddings`` is relative to.
        temperature: Of the softmax over cosines; None for the CLIP's own. Not for CLIPs with sigmoid scores.
        scales, box_stages: See :class:`ovd.clip.dense.DenseEncoder`.
        allow_untrained: Permit a CLIP of random weights.

    Raises:
        UserError: Unknown CLIP, one whose tower gives no map, a class head of another CLIP, a wrong temperature.
    """

    def __init__(self, pretrained: str, model: str | None = None, precision: str = "fp32",
                 class_embeddings: str | PathLike | ClassHead | None = None, data_root: str = "",
                 temperature: float | None = None, scales: Sequence[float] = (1.0, 1.5, 2.0),
                 box_stages: int | None = None, allow_untrained: bool = False) -> None:
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise UserError(f"dense CLIP: temperature {temperature}: needs a number above 0")
        with torch.random.fork_rng(devices=[]):  # the detector's random weights are what they are without this
            self.clip = load_clip(pretrained, model=model, precision=precision, allow_untrained=allow_untrained)
        self._encoder_settings = scales, box_stages
        self.encoder = DenseEncoder(self.clip, *self._encoder_settings)
        self.temperature = temperature
        if class_embeddings is not None and not isinstance(class_embeddings, ClassHead):
            class_embeddings = load_classes(Path(data_root, class_embeddings))
        self.own_head = class_embeddings
        self._current: tuple[ClassHead | None, ClassHead | None] = None, None

    def probabilities(self, images: Sequence[Tensor], rois_N5: Tensor, head: ClassHead,
                      is_reference_C: Tensor | None = None) -> Tensor:
        """CLIP's probabilities of the classes of ``head``, float32 ``[N, C]``.

        Args:
            images: Per image of the batch, RGB in 0..255, ``[3, height, width]``.
            rois_N5: ``(image index, x1, y1, x2, y2)`` in their pixels.
            head: The detector's class head: the names, and the embeddings unless this module has its own.
            is_reference_C: See :meth:`ClassHead.probabilities`.

        Raises:
            UserError: The head is of another CLIP, or this module's own lacks a class.
        """
        self._move(rois_N5.device)
        head = self.head_for(head)
        embeddings_ND = torch.zeros(len(rois_N5), head.dim, device=rois_N5.device)
        owners = rois_N5[:, 0].long()
        for shape in dict.fromkeys(image.shape for image in images):  # images of one size pass together
            members = [index for index, image in enumerate(images) if image.shape == shape]
            place = torch.full((len(images),), -1, device=owners.device)
            place[members] = torch.arange(len(members), device=owners.device)
            chosen = (place[owners] >= 0).nonzero()[:, 0]
            rois = torch.cat([place[owners[chosen], None].to(rois_N5), rois_N5[chosen, 1:]], dim=1)
            embeddings_ND[chosen] = self.encoder(torch.stack([images[index] for index in members]), rois)
        return head.probabilities(embeddings_ND, is_reference_C)

    def head_for(self, detectors: ClassHead) -> ClassHead:
        """The class head for the classes of the detector's; remembered while that one stays.

        Raises:
            UserError: It is of another CLIP, this module's own lacks a class, or the temperature does not suit it.
        """
        if self._current[0] is detectors:
            return self._current[1]
        head = detectors if self.own_head is None else self.own_head.select(detectors.names)
        if head.stats.get("clip") != self.clip.fingerprint:
            raise UserError(f"dense CLIP {self.clip.name}: the class head was made with another CLIP; give a class "
                            "head of this CLIP (ovd class-embeddings --pretrained), or take the CLIP of the class "
                            "head")
        if self.temperature is not None:
            if head.stats.get("scores") == "sigmoid":
                raise UserError(f"dense CLIP {self.clip.name}: its scores are sigmoids, whose scale belongs to their "
                                "bias; leave the temperature out")
            head = replace(head, scale=1 / self.temperature)
        self._current = detectors, head
        return head

    def _move(self, device: torch.device) -> None:
        if self.clip.device != device:
            self.clip.model.to(device)
            self.clip.device = device
            self.encoder = DenseEncoder(self.clip, *self._encoder_settings)  # its parts may hold views of weights


def check_dense_clip(model: dict) -> None:
    """Refuse the ``dense_clip`` of a model's config that cannot be had, or cannot score the model's class head.

    Raises:
        UserError: As :class:`DenseClipScore`, and :meth:`DenseClipScore.head_for`.
    """
    dense_clip = MODELS.build(model["dense_clip"])
    for _, part in walk(model):
        if isinstance(part.get("class_head"), str):
            dense_clip.head_for(load_classes(Path(part.get("data_root") or "", part["class_head"])))


def rgb_images(preprocessor: DetDataPreprocessor, batch_inputs: Tensor, samples: SampleList) -> list[Tensor]:
    """The batch's images before normalisation and padding: RGB in 0..255, float32 ``[3, height, width]``.

    Args:
        preprocessor: What made ``batch_inputs`` ``[B, 3, H, W]`` of images that were loaded as mmcv does: in BGR.
    """
    if preprocessor._enable_normalize:
        batch_inputs = batch_inputs.float() * preprocessor.std + preprocessor.mean
    if not preprocessor._channel_conversion:
        batch_inputs = batch_inputs.flip(1)
    shapes = [sample.metainfo["img_shape"][:2] for sample in samples]
    return [image[:, :height, :width].float() for image, (height, width) in zip(batch_inputs, shapes)]
