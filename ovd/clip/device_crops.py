"""Crops of boxes for CLIP, as many as an image has, at the speed of the device that encodes them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovd.clip.crops import (
    CropRecipe,
    RgbImage,
    as_pillow,
    check_mask,
    crop_windows,
    foreground_spans,
    resized_views,
)


class DeviceCropper:
    """A :class:`ovd.clip.crops.Cropper` that gives the crops of ``PillowCropper``, up to rounding, on a device.

    The crops of a box do not depend on which other boxes are asked for with it.
    """

    def __init__(self, recipe: CropRecipe, side: int, device: str | torch.device = "cpu",
                 dtype: torch.dtype = torch.float32, mask: bool = False) -> None:
        check_mask(recipe, mask)
        self.recipe, self.side, self.mask = recipe, side, mask
        self.device, self.dtype = torch.device(device), dtype

    def __call__(self, image: RgbImage, boxes_N4: np.ndarray) -> Tensor:
        image = as_pillow(image)
        windows_NK4 = crop_windows(boxes_N4, image.width, image.height, self.recipe)
        views_NK4 = resized_views(windows_NK4, self.side, self.recipe.kind)
        num, scales = windows_NK4.shape[:2]
        side = self.side
        crops = np.empty((num * scales, side, side, 3 + self.mask), np.uint8)
        for crop, window, view in zip(crops, windows_NK4.reshape(-1, 4).tolist(), views_NK4.reshape(-1, 4).tolist()):
            crop[..., :3] = _resize_view(image.crop(window), *view, side)
        crops_NKSSC = torch.from_numpy(crops).view(num, scales, *crops.shape[1:]).to(self.device)
        if self.mask:
            cols, rows = torch.from_numpy(foreground_spans(boxes_N4, windows_NK4, side)).to(self.device).unbind(2)
            crops_NKSSC[..., 3] = rows[..., :, None] & cols[..., None, :]
        return crops_NKSSC.permute(0, 1, 4, 2, 3)


def _resize_view(crop: Image.Image, width: int, height: int, left: int, top: int, side: int) -> np.ndarray:
    """Only the view is computed: its edges in the crop are fractions of pixels, which Pillow takes as 32-bit floats."""
    across, down = crop.width / width, crop.height / height
    box = (left * across, top * down, min((left + side) * across, crop.width), min((top + side) * down, crop.height))
    return np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC, box))
