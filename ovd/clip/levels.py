"""What of an image is embedded: its proposals, or, as OADP does besides, its blocks and all of it.

OADP (Wang et al., CVPR 2023) distils from three levels of a pyramid: objects, blocks, and the global image. Each level
is a region store of its own.

Shapes: n regions of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ovd.clip.blocks import block_boxes
from ovd.clip.crops import CropRecipe, RgbImage, check_boxes
from ovd.clip.device_crops import DeviceCropper
from ovd.clip.masked_attention import MaskedTower, WholeImageTower
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import ClipModel
from ovd.errors import UserError
from ovd.stores.shards import RegionStore

if TYPE_CHECKING:
    from ovd.clip.shard_job import ImageFile

LEVELS = ("objects", "blocks", "globals")


class Level(Protocol):
    """Which boxes of an image are embedded, and how. Picklable."""

    crops_per_region: int

    def config(self) -> dict:
        """What the embeddings depend on, for a manifest."""
        ...

    def choose(self, image_id: int, file: "ImageFile") -> tuple[np.ndarray, np.ndarray]:
        """Boxes ``[n, 4]`` xyxy in pixels and scores ``[n]`` of an image."""
        ...

    def verify(self, image_ids: Sequence[int]) -> None:
        """Compare checksums of what the boxes of these images are read from.

        Raises:
            UserError: It is damaged.
        """
        ...

    def encoder(self, clip: ClipModel, batch_size: int | None = None, compiled: bool = False) -> RegionEncoder:
        """What embeds them; see :class:`ovd.clip.regions.RegionEncoder`."""
        ...


@dataclass(frozen=True)
class Objects:
    """The proposals of an image.

    Attributes:
        top_k: Proposals an image, those of the highest scores; None for all.
        masked_attention: Keep what surrounds the box out of its embedding (:mod:`ovd.clip.masked_attention`).
        upsample: How many times as fine the grid of patches is then.
    """

    proposals: RegionStore
    recipe: CropRecipe
    top_k: int | None = None
    masked_attention: bool = False
    upsample: int = 1

    @property
    def crops_per_region(self) -> int:
        return len(self.recipe.scales)

    def config(self) -> dict:
        masked = {"masked_attention": True, "upsample": self.upsample} if self.masked_attention else {}
        return {"recipe": self.recipe.config(), "top_k": self.top_k, **masked}

    def choose(self, image_id: int, file: "ImageFile") -> tuple[np.ndarray, np.ndarray]:
        """The proposals that are to be embedded, the highest scores first.

        Raises:
            UserError: A box that is inverted, without area or outside the image.
        """
        proposals = self.proposals.view(image_id)
        best = np.argsort(-proposals.scores, kind="stable")[:self.top_k]
        boxes, scores = proposals.boxes[best], proposals.scores[best]
        try:
            keep = check_boxes(boxes, file.width, file.height, self.recipe.min_size)
        except UserError as error:
            raise UserError(f"{self.proposals.path}: image {image_id} ({file.path}): {error}; are these the proposals "
                            "of this annotation file?") from None
        return boxes[keep], scores[keep]

    def verify(self, image_ids: Sequence[int]) -> None:
        self.proposals.verify(self.proposals.shards_of(image_ids))

    def encoder(self, clip: ClipModel, batch_size: int | None = None, compiled: bool = False) -> RegionEncoder:
        if not self.masked_attention:
            return RegionEncoder(clip, self.recipe, batch_size, compiled=compiled)
        tower = MaskedTower(clip, self.upsample)  # not compiled: torch 2.11 makes code of it that does not compile
        cropper = DeviceCropper(self.recipe, tower.side, clip.device, mask=True)
        return RegionEncoder(clip, self.recipe, batch_size, cropper, tower)


@dataclass(frozen=True)
class Blocks:
    """The blocks of an image (:func:`ovd.clip.blocks.block_boxes`), each resized to CLIP's input; their score is 1.

    Attributes:
        side: Of CLIP's input in pixels.
    """

    side: int
    crops_per_region = 1

    def config(self) -> dict:
        return {"what": "blocks", "side": self.side}

    def choose(self, image_id: int, file: "ImageFile") -> tuple[np.ndarray, np.ndarray]:
        boxes = block_boxes(file.width, file.height, self.side)
        return boxes, np.ones(len(boxes), np.float32)

    def verify(self, image_ids: Sequence[int]) -> None:
        """Blocks are not read from anywhere."""

    def encoder(self, clip: ClipModel, batch_size: int | None = None, compiled: bool = False) -> RegionEncoder:
        return RegionEncoder(clip, CropRecipe("warp", (1.0,), "nearest"), batch_size, compiled=compiled)


@dataclass(frozen=True)
class Globals:
    """The whole image as one region of score 1, at its own size, neither resized nor cropped.

    Attributes:
        least: Pixels that either side has at least (:class:`ovd.clip.masked_attention.WholeImageTower`).
    """

    least: int = 1
    crops_per_region = 1

    def config(self) -> dict:
        return {"what": "globals"}

    def choose(self, image_id: int, file: "ImageFile") -> tuple[np.ndarray, np.ndarray]:
        if min(file.width, file.height) < self.least:
            raise UserError(f"{file.path}: is {file.width} x {file.height}, and this CLIP's patches have {self.least} "
                            f"pixels: leave image {image_id} out of the annotations")
        return np.array([[0, 0, file.width, file.height]], np.float32), np.ones(1, np.float32)

    def verify(self, image_ids: Sequence[int]) -> None:
        """Whole images are not read from anywhere."""

    def encoder(self, clip: ClipModel, batch_size: int | None = None, compiled: bool = False) -> RegionEncoder:
        recipe = CropRecipe("warp", (1.0,), "nearest")  # images of many sizes: one at a time, and nothing to compile
        return RegionEncoder(clip, recipe, 1, _WholeImage(recipe, clip.image_size), WholeImageTower(clip))


@dataclass(frozen=True)
class _WholeImage:
    """A cropper that hands over the image as it is."""

    recipe: CropRecipe
    side: int

    def __call__(self, image: RgbImage, boxes_N4: np.ndarray) -> Tensor:
        pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
        return pixels.permute(2, 0, 1)[None, None]
