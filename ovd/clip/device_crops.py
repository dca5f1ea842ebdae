"""Crops of boxes for CLIP, as many as an image has, at the speed of the device that encodes them.

Shapes: N boxes, K scales, S side of CLIP's input, C channels (3, or 4 with a mask).
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovd.clip.batched_resize import resize_windows, to_device
from ovd.clip.bicubic import source_windows
from ovd.clip.crops import (
    CropRecipe,
    RgbImage,
    as_pillow,
    check_mask,
    crop_windows,
    foreground_spans,
    resized_views,
)

_STRIP = 1 << 24  # pixels of an image that are resized at a time


class DeviceCropper:
    """A :class:`ovd.clip.crops.Cropper` that gives what ``PillowCropper`` gives, up to rounding, and faster.

    Pixels differ by at most one grey level, all but a few in a million; those of squares and of warped crops, made on a
    CPU, do not differ at all. Rows are always resized before columns, while Pillow 12.3 does columns first in
    some very tall windows: only warped crops a hundred times as tall as wide are changed by it. The crops of a box do
    not depend on which other boxes are asked for with it.

    Args:
        recipe: How boxes are cropped.
        side: Of a crop, in pixels.
        device: Where crops are made and stay.
        dtype: Of the products on a device: float32 gives the same bytes everywhere; float16 is faster, and rounds
            about one pixel in twenty otherwise. A CPU has no use for it.
        mask: Give crops a fourth channel: 1 for pixels whose centre lies in the box, 0 for its surroundings.
        dense: Whether resizes are batched dense products, or one after the other by Pillow; None is what is faster:
            products, except on a CPU.

    Raises:
        UserError: ``mask`` with crops of kind ``clip``, which may lose the box's ends.
    """

    def __init__(self, recipe: CropRecipe, side: int, device: str | torch.device = "cpu",
                 dtype: torch.dtype = torch.float32, mask: bool = False, dense: bool | None = None) -> None:
        check_mask(recipe, mask)
        self.recipe, self.side, self.mask = recipe, side, mask
        self.device, self.dtype = torch.device(device), dtype
        self.dense = self.device.type != "cpu" if dense is None else dense

    def __call__(self, image: RgbImage, boxes_N4: np.ndarray) -> Tensor:
        """Crops, uint8 ``[N, K, C, S, S]`` on the device, channels last in memory, as CLIP's first layer likes them.

        Args:
            image: A tensor may already be on the device.
            boxes_N4: xyxy in pixels; they overlap the image.
        """
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        windows_NK4 = crop_windows(boxes_N4, width, height, self.recipe)
        views_NK4 = resized_views(windows_NK4, self.side, self.recipe.kind)
        resize = self._resize_densely if self.dense else self._resize_in_turn
        crops_MSSC = resize(image, windows_NK4.reshape(-1, 4), views_NK4.reshape(-1, 4))
        if self.mask:
            spans = foreground_spans(boxes_N4, windows_NK4, self.side).reshape(-1, 2, self.side)
            cols_MS, rows_MS = to_device(torch.from_numpy(spans), self.device).unbind(1)
            mask_MSS = rows_MS.unsqueeze(2) & cols_MS.unsqueeze(1)
            crops_MSSC = torch.cat([crops_MSSC, mask_MSS.unsqueeze(3).to(torch.uint8)], 3)
        return crops_MSSC.permute(0, 3, 1, 2).unflatten(0, windows_NK4.shape[:2])

    def _resize_densely(self, image: RgbImage, windows_M4: np.ndarray, views_M4: np.ndarray) -> Tensor:
        image_HW3 = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
        return resize_windows(to_device(image_HW3, self.device), windows_M4, views_M4, self.side, self.dtype)

    def _resize_in_turn(self, image: RgbImage, windows_M4: np.ndarray, views_M4: np.ndarray) -> Tensor:
        image, side = as_pillow(image), self.side
        sources_M4 = source_windows(windows_M4, views_M4, side)
        # the view in the cut that Pillow resizes: its edges are fractions of pixels, which it takes as 32-bit floats
        scale_M2 = (windows_M4[:, 2:] - windows_M4[:, :2]) / views_M4[:, :2]
        low_M2 = views_M4[:, 2:] * scale_M2 + windows_M4[:, :2] - sources_M4[:, :2]
        high_M2 = np.minimum(low_M2 + side * scale_M2, sources_M4[:, 2:] - sources_M4[:, :2])
        crops_MSS3 = np.empty((len(windows_M4), side, side, 3), np.uint8)
        for crop, source, low, high in zip(crops_MSS3, sources_M4.tolist(), low_M2.tolist(), high_M2.tolist()):
            crop[:] = _resize_view(image, source, side, *low, *high)
        return torch.from_numpy(crops_MSS3).to(self.device)


def _resize_view(image: Image.Image, source: list[int], side: int, left: float, top: float, right: float,
                 bottom: float) -> np.ndarray:
    """In two steps, since Pillow's own choice of which axis comes first is not the same in all versions.

    Rows in strips: a window with much context, of a large image, has more pixels than Pillow lets an image have.
    """
    x1, y1, x2, y2 = source
    step = max(1, _STRIP // (x2 - x1))
    if step >= y2 - y1:
        rows = _resize_rows(image.crop(source), side, left, right)
    else:
        rows = Image.new("RGB", (side, y2 - y1))
        for y in range(y1, y2, step):
            strip = image.crop((x1, y, x2, min(y + step, y2)))
            rows.paste(_resize_rows(strip, side, left, right), (0, y - y1))
    return np.asarray(rows.resize((side, side), Image.Resampling.BICUBIC, (0, top, side, bottom)))


def _resize_rows(strip: Image.Image, side: int, left: float, right: float) -> Image.Image:
    return strip.resize((side, strip.height), Image.Resampling.BICUBIC, (left, 0, right, strip.height))
