"""The work on one shard of a region store: read its images, crop their regions, encode, write.

A shard is the unit of work, so threads, processes, ranks and machines all do the same: build a :class:`ShardEmbedder`
and give it shards.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovd.clip.levels import Level
from ovd.clip.throughput import Work
from ovd.clip.towers import ClipModel, load_clip
from ovd.data.rgb import load_rgb
from ovd.engine.lookahead import lookahead
from ovd.errors import UserError
from ovd.stores.shards import Regions, StoreWriter

Progress = Callable[[int], None]


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
        images: Of every image id of the store; see :class:`ovd.clip.image_files.ImageFiles`.
        level: Which boxes of an image are embedded, and how.
        clip: Arguments of :func:`ovd.clip.towers.load_clip`.
        batch_size: Crops in a forward pass; None for the encoder's default.
        readers: Threads that decode images ahead of one encoder; 0 to decode where it encodes.
        compiled: Run the image tower through ``torch.compile``.
        skip_bad_images: Store an image that cannot be read as one without regions, instead of stopping.
    """

    writer: StoreWriter
    images: Mapping[int, ImageFile]
    level: Level
    clip: dict
    batch_size: int | None = None
    readers: int = 0
    compiled: bool = False
    skip_bad_images: bool = False


@dataclass(frozen=True, eq=False)
class Embedded:
    """A shard that is ready to be written."""

    shard: int
    regions: dict[int, Regions]
    work: Work


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The regions of an image that are to be embedded, and its pixels, uint8 ``[H, W, 3]``, once it is decoded.

    ``problem`` says why it could not be.
    """

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    pixels: Tensor | None = None
    problem: str | None = None


class ShardEmbedder:
    """Embeds shards of one job.

    May be called by several threads: one embeds, while others write what they embedded.

    Args:
        clip: Already loaded; None loads what the job names.
    """

    def __init__(self, job: RegionJob, clip: ClipModel | None = None) -> None:
        self.job = job
        self.encoder = job.level.encoder(clip or load_clip(**job.clip), job.batch_size, job.compiled)
        self._encoding = threading.Lock()

    def __call__(self, shard: int, progress: Progress = lambda crops: None) -> Work:
        """Embed one shard and write it; returns when it is on disk.

        The same shard gives the same bytes, whatever was done before: batches do not reach across shards.

        Args:
            progress: Called after each image with the number of its crops.

        Raises:
            UserError: An image that cannot be read (unless those are skipped), embeddings that mean nothing.
        """
        embedded = self.embed(shard, progress)
        self.write(embedded)
        return embedded.work

    def embed(self, shard: int, progress: Progress = lambda crops: None) -> Embedded:
        """The first half of a call: the shard's content."""
        job, found = self.job, []

        def crops() -> Iterator[Tensor]:
            chosen = (_Chosen(image_id, *job.level.choose(image_id, job.images[image_id]))
                      for image_id in job.writer.image_ids(shard))  # in this thread: stores are not read by several
            for image in lookahead(self._decode, chosen, job.readers, ahead=2 * job.readers):
                if image.problem and not job.skip_bad_images:
                    raise UserError(image.problem)
                found.append(replace(image, pixels=None))
                if image.pixels is not None and len(image.boxes):
                    yield self.encoder.crop(image.pixels, image.boxes)
                progress(len(image.boxes) * job.level.crops_per_region)

        with self._encoding:
            rows = iter(self.encoder.encode(crops()))
            work = self.encoder.clock.read()
        nothing = np.zeros((0, self.encoder.clip.embed_dim), np.float16)
        return Embedded(shard, {image.image_id: Regions(image.boxes, image.scores,
                                                        next(rows) if len(image.boxes) else nothing)
                                for image in found}, work)

    def write(self, embedded: Embedded) -> None:
        """The second half of a call: to disk."""
        self.job.writer.write(embedded.shard, embedded.regions)

    def _decode(self, image: _Chosen) -> _Chosen:
        """A bad image is handed over as such, so that it is met in its turn."""
        file = self.job.images[image.image_id]
        try:
            pixels = torch.from_numpy(np.array(load_rgb(file.path, file.width, file.height)))
        except UserError as error:
            nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
            return _Chosen(image.image_id, *nothing, problem=str(error))
        on_gpu = self.encoder.clip.device.type == "cuda"
        return replace(image, pixels=pixels.pin_memory() if on_gpu else pixels)
