"""Crops of boxes as CLIP sees them: which window of the image, and how it becomes a square.

Shapes: N boxes, K scales, S side of CLIP's input.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovd.clip.bicubic import resize_window
from ovd.errors import UserError, nearest

KINDS = ("clip", "warp", "square", "adaptive")
ROUNDINGS = ("outward", "nearest")

_SNAP = 1e-3  # pixels: an edge this close to a pixel border is on it, so float noise does not add a row
_LONG = 8  # a crop longer than this many times its short side is resized in its middle only


@dataclass(frozen=True)
class CropRecipe:
    """From a box to the crops that are encoded for it. Part of what identifies a region store.

    Attributes:
        kind: How a window becomes a square of side S. All resize bicubically with antialiasing, as CLIP does.

            - ``clip``: the box, clamped to the image; short side to S, then the centre square, which is CLIP's own
              preprocessing (ViLD, DetPro): long boxes lose their ends;
            - ``warp``: the box, clamped to the image; both sides to S: the aspect ratio is lost;
            - ``square``: the square on the box's longer side;
            - ``adaptive``: the square of side ``sqrt(8 * area)`` (OADP, Wang et al. 2023, sec. 3.2), meant for one
              scale of 1.

            Squares are moved into the image along each axis on which they fit; what still lies outside is black.
        scales: Factors on the box (or square) about its centre. ViLD: the box and 1.5 times it, for context.
        rounding: Window edges to whole pixels: ``outward`` keeps all of the box (DetPro), ``nearest`` may cut half a
            pixel. Never less than one pixel. Squares always round their side and their corner to the nearest.
        min_size: Boxes narrower or lower than this many pixels are left out of the store (OADP: 4). With 0 every box
            is encoded, and one without area is an error.
    """

    kind: str = "clip"
    scales: tuple[float, ...] = (1.0, 1.5)
    rounding: str = "outward"
    min_size: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"no crop recipe of kind {self.kind!r}{nearest(self.kind, KINDS)}")
        if self.rounding not in ROUNDINGS:
            raise UserError(f"crop rounding {self.rounding!r} is not one of {', '.join(ROUNDINGS)}")
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not self.scales or not all(np.isfinite(scale) and scale > 0 for scale in self.scales):
            raise UserError(f"crop scales {self.scales}: need at least one, all positive")
        if not (np.isfinite(self.min_size) and self.min_size >= 0):
            raise UserError(f"crop min_size {self.min_size}: needs a number of pixels, 0 or more")

    def config(self) -> dict:
        """The recipe as plain data, for a manifest."""
        return {"kind": self.kind, "scales": list(self.scales), "rounding": self.rounding,
                "min_size": float(self.min_size), "resize": "bicubic antialiased"}


RgbImage = Image.Image | np.ndarray | Tensor  # RGB; arrays and tensors uint8 [H, W, 3]


class Cropper(Protocol):
    """Turns boxes of an image into CLIP's input; the seam behind which cropping moves to a device."""

    recipe: CropRecipe
    side: int

    def __call__(self, image: RgbImage, boxes_N4: np.ndarray) -> Tensor:
        """Crops, uint8 ``[N, K, 3, S, S]``, of boxes xyxy in pixels of the RGB ``image`` (4 channels with a mask)."""
        ...


class PillowCropper:
    """The reference :class:`Cropper`, on the CPU; bit-equal to cropping and applying CLIP's own preprocessing.

    Args:
        mask: Give crops a fourth channel: 1 for pixels whose centre lies in the box, 0 for its surroundings.

    Raises:
        UserError: ``mask`` with crops of kind ``clip``, which may lose the box's ends.
    """

    def __init__(self, recipe: CropRecipe, side: int, mask: bool = False) -> None:
        check_mask(recipe, mask)
        self.recipe, self.side, self.mask = recipe, side, mask

    def __call__(self, image: RgbImage, boxes_N4: np.ndarray) -> Tensor:
        image = as_pillow(image)
        windows_NK4 = crop_windows(boxes_N4, image.width, image.height, self.recipe)
        views_NK4 = resized_views(windows_NK4, self.side, self.recipe.kind)
        num, scales = windows_NK4.shape[:2]
        side = self.side
        crops = np.empty((num * scales, side, side, 3 + self.mask), np.uint8)
        for crop, window, view in zip(crops, windows_NK4.reshape(-1, 4).tolist(), views_NK4.reshape(-1, 4).tolist()):
            crop[..., :3] = _resize(image.crop(window), *view, side)
        if self.mask:
            crops[..., 3] = foreground_masks(boxes_N4, windows_NK4, side).reshape(-1, side, side)
        return torch.from_numpy(crops).view(num, scales, *crops.shape[1:]).permute(0, 1, 4, 2, 3)


def check_mask(recipe: CropRecipe, mask: bool) -> None:
    """Refuse masks for crops that may not hold all of the box.

    Raises:
        UserError: ``mask`` with a recipe of kind ``clip``.
    """
    if mask and recipe.kind == "clip":
        raise UserError("masked attention needs crops that hold all of the box: set the recipe's kind to "
                        "'adaptive', 'square' or 'warp'")


def as_pillow(image: RgbImage) -> Image.Image:
    """The RGB image for Pillow; a tensor on a device is copied from it."""
    if isinstance(image, Tensor):
        image = image.cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image


def crop_windows(boxes_N4: np.ndarray, width: int, height: int, recipe: CropRecipe) -> np.ndarray:
    """Windows of whole pixels, int64 ``[N, K, 4]`` xyxy, for boxes that overlap an image of ``width`` x ``height``."""
    boxes = np.asarray(boxes_N4, np.float64).reshape(-1, 1, 2, 2)  # box, scale, corner, axis
    centre = boxes.mean(axis=2, keepdims=True)
    extent = boxes[:, :, 1:] - boxes[:, :, :1]
    scales = np.asarray(recipe.scales).reshape(1, -1, 1, 1)
    limit = np.array([width, height])
    if recipe.kind in ("square", "adaptive"):
        area = extent.prod(axis=3, keepdims=True)
        side = extent.max(axis=3, keepdims=True) if recipe.kind == "square" else np.sqrt(8.0 * area)
        side = np.maximum(np.rint(scales * side), 1.0)
        low = np.rint(centre - side / 2)
        low = np.where(side <= limit, np.clip(low, 0, np.maximum(limit - side, 0)), low)
        high = low + side
    else:
        half = scales * extent / 2
        low, high = np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)
        if recipe.rounding == "outward":
            low, high = np.floor(low + _SNAP), np.ceil(high - _SNAP)
        else:
            low, high = np.rint(low), np.rint(high)
        low = np.minimum(low, limit - 1)
        high = np.maximum(high, low + 1)
    return np.concatenate([low, high], axis=2).reshape(len(boxes), len(recipe.scales), 4).astype(np.int64)


def resized_views(windows_NK4: np.ndarray, side: int, kind: str) -> np.ndarray:
    """What becomes of windows: int64 ``[N, K, 4]``, width and height of the resized window, and in its pixels the left
    and top edge of the ``side`` x ``side`` part of it that is the crop."""
    sizes_NK2 = windows_NK4[..., 2:] - windows_NK4[..., :2]
    if kind == "warp":
        resized_NK2 = np.full_like(sizes_NK2, side)
    else:  # as CLIP's preprocessing: the short side is resized to side, the centre is kept
        resized_NK2 = (side * sizes_NK2 / sizes_NK2.min(axis=2, keepdims=True)).astype(np.int64)
    return np.concatenate([resized_NK2, np.rint((resized_NK2 - side) / 2).astype(np.int64)], axis=2)


def foreground_masks(boxes_N4: np.ndarray, windows_NK4: np.ndarray, side: int) -> np.ndarray:
    """Where the box is in its windows, once these are resized to ``side`` x ``side``: bool ``[N, K, side, side]``.

    A pixel belongs to the box if its centre lies in it.
    """
    cols_NKS, rows_NKS = np.moveaxis(foreground_spans(boxes_N4, windows_NK4, side), 2, 0)
    return rows_NKS[..., :, None] & cols_NKS[..., None, :]


def foreground_spans(boxes_N4: np.ndarray, windows_NK4: np.ndarray, side: int) -> np.ndarray:
    """The columns, then the rows of :func:`foreground_masks` that the box takes up: bool ``[N, K, 2, side]``."""
    boxes = np.asarray(boxes_N4, np.float64).reshape(-1, 1, 2, 2, 1)  # box, scale, corner, axis, pixel
    low, high = np.moveaxis(windows_NK4.reshape(*windows_NK4.shape[:2], 2, 2, 1).astype(np.float64), 2, 0)
    centres = low + (np.arange(side) + 0.5) * (high - low) / side  # box, scale, axis, pixel
    return (centres >= boxes[:, :, 0]) & (centres < boxes[:, :, 1])


def check_boxes(boxes_N4: np.ndarray, width: int, height: int, min_size: float = 0.0) -> np.ndarray:
    """Which boxes are to be encoded, bool ``[N]``.

    Raises:
        UserError: A box that is not finite, is inverted, lies outside the image, or (with ``min_size`` 0) has no area.
    """
    x1, y1, x2, y2 = np.asarray(boxes_N4, np.float64).reshape(-1, 4).T
    faults = (
        (~np.isfinite(x1 + y1 + x2 + y2), "is not finite"),
        ((x2 < x1) | (y2 < y1), "is inverted (boxes are x1, y1, x2, y2)"),
    )
    for fault, what in faults:
        _refuse(boxes_N4, fault, what)
    keep = (x2 - x1 >= min_size) & (y2 - y1 >= min_size)
    _refuse(boxes_N4, keep & ((x2 <= x1) | (y2 <= y1)), "has no area; drop it, or set the recipe's min_size")
    outside = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
    _refuse(boxes_N4, keep & outside, f"lies outside the image of {width} x {height}")
    return keep


def _refuse(boxes_N4: np.ndarray, fault: np.ndarray, what: str) -> None:
    if fault.any():
        index = int(fault.argmax())
        corners = ", ".join(f"{value:g}" for value in np.asarray(boxes_N4).reshape(-1, 4)[index])
        raise UserError(f"box number {index + 1} of {len(fault)} ({corners}) {what}")


def _resize(crop: Image.Image, width: int, height: int, left: int, top: int, side: int) -> np.ndarray:
    if max(width, height) > _LONG * side:
        return resize_window(np.asarray(crop), width, height, left, top, side)
    resized = crop.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))
