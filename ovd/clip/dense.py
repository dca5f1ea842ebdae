"""CLIP's view of boxes from its feature map of the whole image: one pass an image, not one a crop.

Shapes: N images, K boxes, C channels of the map, D width of the embeddings.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from ovd.clip.dense_towers import cut_tower
from ovd.clip.towers import ClipModel
from ovd.errors import UserError

_BOXES_AT_ONCE = 256  # the cells of RN50's last stage: 0.1 GB


class DenseEncoder:
    """Embeds boxes of images of any size, by RoIAlign on CLIP's own map (F-VLM, Kuo et al., ICLR 2023).

    A CLIP knows objects that fill its input. Boxes of an image enlarged by several factors cover as many cells as such
    an object does, so each box is taken from the scale at which its side (the root of its area) is nearest to CLIP's
    input size.

    Args:
        clip: Its image tower is used; the weights are shared and stay as they are.
        scales: Factors on the image's size, one map each. Sizes are rounded to whole cells.
        box_stages: Last stages of a ModifiedResNet that run for each box in place of once for the image: slower, and
            closer to what the CLIP makes of a crop. None for one, where there are stages.

    Raises:
        UserError: Scales or stages that make no sense, or a tower without a map (:mod:`ovd.clip.dense_towers`).
    """

    def __init__(self, clip: ClipModel, scales: Sequence[float] = (1.0,),
                 box_stages: int | None = None) -> None:
        self.scales = tuple(float(scale) for scale in scales)
        if not self.scales or not all(0.05 <= scale <= 20 for scale in self.scales):
            raise UserError(f"dense CLIP: scales {list(scales)}: needs factors on the image's size, such as 1 or 1.5")
        self.clip = clip
        self.tower = cut_tower(clip, box_stages)

    @torch.inference_mode()
    def __call__(self, images_N3HW: Tensor, rois_K5: Tensor) -> Tensor:
        """Raw embeddings, float32 ``[K, D]``.

        Args:
            images_N3HW: RGB, 0..255, of any floating type, on the CLIP's device.
            rois_K5: ``(image index, x1, y1, x2, y2)`` in pixels of the images.
        """
        rois_K5 = rois_K5.float()
        levels = self._levels(rois_K5)
        raw_KD = torch.zeros(len(rois_K5), self.clip.embed_dim, device=rois_K5.device)
        for level, scale in enumerate(self.scales):
            chosen = (levels == level).nonzero()[:, 0]
            if len(chosen):
                raw_KD[chosen] = self._embed(images_N3HW, rois_K5[chosen], scale)
        return raw_KD

    def _levels(self, rois_K5: Tensor) -> Tensor:
        """For each box, long ``[K]``: the scale that brings its side nearest (by ratio) to CLIP's input size."""
        sides_K = ((rois_K5[:, 3] - rois_K5[:, 1]) * (rois_K5[:, 4] - rois_K5[:, 2])).clamp(min=1e-6).sqrt()
        scales_S = torch.tensor(self.scales, device=rois_K5.device)
        return (sides_K[:, None] * scales_S / self.clip.image_size).log().abs().argmin(dim=1)

    def _embed(self, images: Tensor, rois_K5: Tensor, scale: float) -> Tensor:
        pixels = normalised(resized(images, scale, self.tower.multiple), self.clip).to(self.clip.dtype)
        features, prefix = self.tower.features(pixels)
        features = features.float()  # box coordinates take the map's type in RoIAlign
        height, width = images.shape[2:]
        across, down = features.shape[3] / width, features.shape[2] / height  # cells a pixel
        rois_K5 = rois_K5 * rois_K5.new_tensor([1, across, down, across, down])
        parts = []
        for rois in rois_K5.split(_BOXES_AT_ONCE):
            boxes = roi_align(features, rois, self.tower.grid, sampling_ratio=0, aligned=True).to(self.clip.dtype)
            parts.append(self.tower.embed(boxes, None if prefix is None else prefix[rois[:, 0].long()]).float())
        return torch.cat(parts)


def resized(images_N3HW: Tensor, scale: float, multiple: int) -> Tensor:
    """Images of ``scale`` times the size, rounded to ``multiple`` pixels a side; bicubic, antialiased, in 0..255."""
    size = [max(1, round(side * scale / multiple)) * multiple for side in images_N3HW.shape[2:]]
    images_N3HW = images_N3HW.float()
    if size == list(images_N3HW.shape[2:]):
        return images_N3HW
    return F.interpolate(images_N3HW, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)


def normalised(images_N3HW: Tensor, clip: ClipModel) -> Tensor:
    """Images of 0..255 as the CLIP wants them."""
    mean, std = (torch.tensor(values, device=images_N3HW.device).view(3, 1, 1) for values in (clip.mean, clip.std))
    return (images_N3HW / 255 - mean) / std
