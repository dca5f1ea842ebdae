"""Region embeddings: CLIP's view of a box, as the detector is to imitate it.

Shapes: N boxes, K crops a box (scales), S side of CLIP's input, D width of its embeddings.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from ovd.clip.crops import Cropper, CropRecipe, RgbImage, check_boxes
from ovd.clip.device_crops import DeviceCropper
from ovd.clip.throughput import Clock
from ovd.clip.towers import ClipModel
from ovd.errors import UserError


def normalize_pixels(pixels: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """uint8 RGB ``[..., 3, S, S]`` to float32 ``(pixels / 255 - mean) / std``, in CLIP's order of operations.

    ``mean`` and ``std`` that are tensors on the pixels' device already spare a GPU a wait for all that it has to do.
    """
    mean, std = (torch.as_tensor(value, dtype=torch.float32, device=pixels.device) for value in (mean, std))
    rows = pixels.movedim(-3, -1)
    plain = pixels.device.type != "cpu" or torch.compiler.is_compiling()
    if plain or pixels.dim() != 4 or not rows.is_contiguous():
        return pixels.to(torch.float32).div_(255).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
    # a third of the time: crop by crop, which stays in the processor's caches, and row by row, which are long vectors
    mean, std = mean.repeat(rows.shape[2]), std.repeat(rows.shape[2])
    normal = torch.empty(rows.shape)
    for crop, out in zip(rows.flatten(2), normal.flatten(2)):
        out.copy_(crop).div_(255).sub_(mean).div_(std)
    return normal.movedim(-1, -3)


def combine_scales(raw_NKD: Tensor) -> Tensor:
    """Sum the raw embeddings of a box's crops, then L2-normalise: ``[N, K, D]`` to unit rows ``[N, D]``.

    The sum is of raw vectors (ViLD, sec. 3.2; DetPro), so a crop with a longer embedding counts for more; the mean of
    normalised vectors is something else.
    """
    return F.normalize(raw_NKD.float().sum(dim=1), dim=-1)


def default_batch_size(clip: ClipModel) -> int:
    """Crops in a forward pass where the caller has no wish."""
    return 1024 if clip.device.type == "cuda" else 32


AHEAD = 3  # forward passes that a GPU is given before the oldest is done; their crops wait in its memory


class RegionEncoder:
    """Embeds boxes: crops at the recipe's scales, CLIP's image tower, raw sum, unit length.

    On a GPU every forward pass has the same shape (the last is padded), crops are made on a stream of their own beside
    the tower's, and the next forward passes are ready while one is computed.

    Args:
        clip: Any CLIP; its precision is that of the forward pass, sums and norms are in float32.
        recipe: How boxes are cropped.
        batch_size: Crops in a forward pass, filled across images; by default 1024 on a GPU, and 32, which stays in a
            processor's caches, elsewhere.
        cropper: Replaces the cropper on the CLIP's device.
        tower: Replaces the image tower: the cropper's crops to raw embeddings, float32 ``[M, D]`` on the CLIP's device.
        compiled: Run the tower through ``torch.compile``; UserError in the first forward pass where that fails.

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
            self.tower = _compiled(self.tower)
        self.boxes_per_batch = max(1, batch_size // len(recipe.scales))
        self.fixed_shape = on_gpu or compiled
        self.clock = Clock(clip.device)
        self._mean, self._std = (torch.tensor(value, device=clip.device) for value in (clip.mean, clip.std))
        self._crop_stream = torch.cuda.Stream(clip.device) if on_gpu else None
        self._under_way: deque[torch.cuda.Event] = deque()  # ends of forward passes, on a GPU

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
        if self._crop_stream and isinstance(image, Tensor) and image.is_cuda:  # what makes it may not be done
            self._crop_stream.wait_stream(torch.cuda.current_stream(self.clip.device))
            image.record_stream(self._crop_stream)
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
        stream = torch.cuda.current_stream(self.clip.device) if self._crop_stream else None
        if stream:
            stream.wait_stream(self._crop_stream)
            for part in parts:
                if part.is_cuda:  # a cropper may leave them to the processor
                    part.record_stream(stream)
        boxes, scales = sum(map(len, parts)), parts[0].shape[1]
        rows = self.boxes_per_batch if self.fixed_shape else boxes
        pixels = torch.empty(rows * scales, *parts[0].shape[2:], dtype=torch.uint8, device=self.clip.device,
                             memory_format=torch.channels_last)
        pieces = pixels.split([*(len(part) * scales for part in parts), (rows - boxes) * scales])
        for piece, part in zip(pieces, parts):
            piece.copy_(part.flatten(0, 1), non_blocking=True)
        pieces[-1].zero_()
        raw_MD = self.clock.time(self.tower, pixels, boxes * scales)
        rows_ND = combine_scales(raw_MD.unflatten(0, (-1, scales)))[:boxes].half()
        if stream:
            self._under_way.append(stream.record_event(torch.cuda.Event(blocking=True)))
            if len(self._under_way) > AHEAD:
                self._under_way.popleft().synchronize()
        return rows_ND

    def _plain_tower(self, pixels: Tensor) -> Tensor:
        return self.clip.encode_image(normalize_pixels(pixels, self._mean, self._std))

    def _check(self, rows_ND: Tensor) -> None:
        lengths_N = torch.linalg.vector_norm(rows_ND, dim=1, dtype=torch.float32)
        if not torch.allclose(lengths_N, torch.ones_like(lengths_N), atol=1e-2):
            raise UserError(f"CLIP {self.clip.name} gives embeddings that are not finite or are zero; check its "
                            "weights, and use precision fp32 if it ran in half precision")


def _compiled(tower: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    compiled = torch.compile(tower, dynamic=False)

    def run(pixels: Tensor) -> Tensor:
        try:
            return compiled(pixels)
        except TorchDynamoException as error:  # no compiler on this machine, or a tower that it cannot do
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"the image tower could not be compiled ({reason}); pass --compile off") from error

    return run
