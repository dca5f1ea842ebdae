"""Region embeddings: CLIP's view of a box, as the detector is to imitate it.

Shapes: N boxes, K crops a box (scales), S side of CLIP's input, D width of its embeddings.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovd.clip.crops import Cropper, CropRecipe, RgbImage, check_boxes
from ovd.clip.device_crops import DeviceCropper
from ovd.clip.throughput import Clock
from ovd.clip.towers import ClipModel
from ovd.errors import UserError


def normalize_pixels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 RGB ``[..., 3, S, S]`` to float32 ``(pixels / 255 - mean) / std``, in CLIP's order of operations."""
    shape = (3, 1, 1)
    mean = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    std = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def combine_scales(raw_NKD: Tensor) -> Tensor:
    """Sum the raw embeddings of a box's crops, then L2-normalise: ``[N, K, D]`` to unit rows ``[N, D]``.

    The sum is of raw vectors (ViLD, sec. 3.2; DetPro), so a crop with a longer embedding counts for more; the mean of
    normalised vectors is something else.
    """
    return F.normalize(raw_NKD.float().sum(dim=1), dim=-1)


def default_batch_size(clip: ClipModel) -> int:
    """Crops in a forward pass where the caller has no wish."""
    return 1024 if clip.device.type == "cuda" else 32


class RegionEncoder:
    """Embeds boxes: crops at the recipe's scales, CLIP's image tower, raw sum, unit length.

    On a GPU every forward pass has the same shape (the last is padded), crops are made on a stream of their own beside
    the tower's, and nothing waits for the device before the end of a sequence.

    Args:
        clip: Any CLIP; its precision is that of the forward pass, sums and norms are in float32.
        recipe: How boxes are cropped.
        batch_size: Crops in a forward pass, filled across images; by default 1024 on a GPU, and 32, which stays in a
            processor's caches, elsewhere.
        cropper: Replaces the cropper on the CLIP's device.
        tower: Replaces the image tower: the cropper's crops to raw embeddings, float32 ``[M, D]`` on the CLIP's device.
        compiled: Run the tower through ``torch.compile``.

    Attributes:
        clock: What the tower did, and how long it took for it.
    """

    def __init__(self, clip: ClipModel, recipe: CropRecipe, batch_size: int | None = None,
                 cropper: Cropper | None = None, tower: Callable[[Tensor], Tensor] | None = None,
                 compiled: bool = False) -> None:
        batch_size = default_batch_size(clip) if batch_size is None else batch_size
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: needs at least 1 crop")
        self.clip = clip
        clip.model.visual.to(memory_format=torch.channels_last)  # as crops come; convolutions gain a quarter
        on_gpu = clip.device.type == "cuda"
        half = on_gpu and clip.dtype != torch.float32
        self.cropper = cropper or DeviceCropper(recipe, clip.image_size, clip.device,
                                                torch.float16 if half else torch.float32)
        self.tower = tower or self._plain_tower
        if compiled:
            self.tower = torch.compile(self.tower, dynamic=False)
        self.boxes_per_batch = max(1, batch_size // len(recipe.scales))
        self.fixed_shape = on_gpu or compiled
        self.clock = Clock(clip.device)
        self._crop_stream = torch.cuda.Stream(clip.device) if on_gpu else None

    def __call__(self, image: RgbImage, boxes_N4: np.ndarray) -> np.ndarray:
        """Unit embeddings, float16 ``[N, D]``, of boxes xyxy in pixels of the RGB ``image``.

        Raises:
            UserError: A box that is not finite, inverted, without area or outside the image.
        """
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        check_boxes(boxes_N4, width, height)
        return self.encode([self.crop(image, boxes_N4)])[0]

    def crop(self, image: RgbImage, boxes_N4: np.ndarray) -> Tensor:
        """The cropper's crops, uint8 ``[N, K, 3, S, S]``, for :meth:`encode`; a GPU makes them beside the tower."""
        with torch.cuda.stream(self._crop_stream) if self._crop_stream else nullcontext():
            return self.cropper(image, boxes_N4)

    def encode(self, crops: Iterable[Tensor]) -> list[np.ndarray]:
        """Embed the crops of many images, in batches that run across them.

        The same sequence gives the same bytes (on one device, with one batch size): what shares a batch depends on the
        sequence alone.

        Args:
            crops: Per image, what :meth:`crop` gives.

        Returns:
            Per image, float16 ``[N_i, D]``, unit rows.

        Raises:
            UserError: The model gives embeddings that are not finite, or zero.
        """
        counts, done, waiting, room = [], [], [], self.boxes_per_batch
        for image_crops in crops:
            counts.append(len(image_crops))
            while len(image_crops):
                part, image_crops = image_crops[:room], image_crops[room:]
                waiting.append(part)
                room -= len(part)
                if room == 0:
                    done.append(self._encode_batch(waiting))
                    waiting, room = [], self.boxes_per_batch
        if waiting:
            done.append(self._encode_batch(waiting))
        if not done:
            return [np.zeros((0, self.clip.embed_dim), np.float16) for _ in counts]
        rows_ND = torch.cat(done)
        self._check(rows_ND)
        return np.split(rows_ND.cpu().numpy(), np.cumsum(counts)[:-1])

    @torch.no_grad()
    def _encode_batch(self, parts: list[Tensor]) -> Tensor:
        if self._crop_stream:
            stream = torch.cuda.current_stream(self.clip.device)
            stream.wait_stream(self._crop_stream)
            for part in parts:
                part.record_stream(stream)
        boxes, scales = sum(map(len, parts)), parts[0].shape[1]
        if self.fixed_shape and boxes < self.boxes_per_batch:
            parts = [*parts, parts[0].new_zeros(self.boxes_per_batch - boxes, *parts[0].shape[1:])]
        pixels = torch.cat([part.to(self.clip.device, non_blocking=True).flatten(0, 1) for part in parts])
        raw_MD = self.clock.time(self.tower, pixels, boxes * scales)
        return combine_scales(raw_MD.unflatten(0, (-1, scales)))[:boxes].half()

    def _plain_tower(self, pixels: Tensor) -> Tensor:
        return self.clip.encode_image(normalize_pixels(pixels, self.clip.mean, self.clip.std))

    def _check(self, rows_ND: Tensor) -> None:
        lengths_N = torch.linalg.vector_norm(rows_ND, dim=1, dtype=torch.float32)
        if not torch.allclose(lengths_N, torch.ones_like(lengths_N), atol=1e-2):
            raise UserError(f"CLIP {self.clip.name} gives embeddings that are not finite or are zero; check its "
                            "weights, and use precision fp32 if it ran in half precision")
