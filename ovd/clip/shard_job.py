"""The work on one shard of a region store: read its images, crop their regions, encode, write.

A shard is the unit of work, so processes, ranks and machines all do the same: build a :class:`ShardEmbedder` and
give it shards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ovd.clip.crops import Cropper
from ovd.clip.levels import Level
from ovd.clip.towers import ClipModel, load_clip
from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.stores.shards import Regions, StoreWriter


@dataclass(frozen=True)
class ImageFile:
    """Where an image is, and its size in pixels according to the annotation file."""

    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class RegionJob:
    """What every process needs to embed any shard. Picklable.

    Attributes:
        writer: The region store to fill.
        images: Of every image id of the store.
        level: Which boxes of an image are embedded, and how.
        clip: Arguments of :func:`ovd.clip.towers.load_clip`.
        batch_size: Crops in a forward pass; None for the encoder's default.
        workers: Processes that crop for one encoder; 0 to crop where it encodes.
        skip_bad_images: Store an image that cannot be read as one without regions, instead of stopping.
    """

    writer: StoreWriter
    images: dict[int, ImageFile]
    level: Level
    clip: dict
    batch_size: int | None = None
    workers: int = 0
    skip_bad_images: bool = False


@dataclass(eq=False)
class _Cropped:
    """The chosen regions of an image and their crops; ``problem`` says why there are none."""

    boxes: np.ndarray
    scores: np.ndarray
    crops: Tensor
    problem: str | None = None


class ShardEmbedder:
    """Embeds shards of one job, one after the other.

    Args:
        clip: Already loaded; None loads what the job names.
    """

    def __init__(self, job: RegionJob, clip: ClipModel | None = None) -> None:
        self.job = job
        self.encoder = job.level.encoder(clip or load_clip(**job.clip), job.batch_size)

    def __call__(self, shard: int, progress: Callable[[int], None] = lambda regions: None) -> None:
        """Embed and write one shard.

        The same shard gives the same bytes, whatever was done before: batches do not reach across shards.

        Args:
            progress: Called after each image with the number of its regions.

        Raises:
            UserError: An image that cannot be read (unless those are skipped), embeddings that mean nothing.
        """
        job, chosen = self.job, {}
        image_ids = job.writer.image_ids(shard)

        def crops() -> Iterator[Tensor]:
            loader = DataLoader(_Crops(job, image_ids, self.encoder.cropper), batch_size=None, collate_fn=_as_it_is,
                                num_workers=job.workers)
            for image_id, cropped in zip(image_ids, loader):
                if cropped.problem and not job.skip_bad_images:
                    raise UserError(cropped.problem)
                chosen[image_id] = cropped.boxes, cropped.scores
                yield cropped.crops
                progress(len(cropped.boxes))

        embeddings = self.encoder.encode(crops())
        job.writer.write(shard, {image_id: Regions(boxes, scores, rows)
                                 for (image_id, (boxes, scores)), rows in zip(chosen.items(), embeddings)})


class _Crops(Dataset):
    """Crops of the images of a shard, in its order. A bad image is handed over as such: errors lose their type here."""

    def __init__(self, job: RegionJob, image_ids: list[int], cropper: Cropper) -> None:
        self.job, self.image_ids, self.cropper = job, image_ids, cropper

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> _Cropped:
        image_id = self.image_ids[index]
        file = self.job.images[image_id]
        boxes, scores = self.job.level.choose(image_id, file)
        try:
            crops = self.cropper(load_rgb(file.path, file.width, file.height), boxes)
        except UserError as error:
            nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), torch.zeros(0, dtype=torch.uint8)
            return _Cropped(*nothing, str(error))
        return _Cropped(boxes, scores, crops)


def _as_it_is(item: _Cropped) -> _Cropped:
    return item
