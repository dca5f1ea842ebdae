"""The part of the proposal stage that runs in every process: a network, and shards of images to run it on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from ovd.data.images import Photo
from ovd.engine.checkpoints import read_checkpoint
from ovd.engine.config import load_config
from ovd.engine.launch import quiet
from ovd.engine.lookahead import lookahead
from ovd.errors import UserError
from ovd.stores.shards import Regions, StoreWriter

if TYPE_CHECKING:
    from ovd.models.proposal_network import Prepared, ProposalNetwork

Task = tuple[int, list[Photo]]  # a shard and its images


@dataclass(frozen=True)
class Job:
    """What a process needs to extract shards; pickles. ``threads`` None leaves torch's number."""

    config: str
    options: Sequence[str] | Mapping[str, Any]
    data_root: str | None
    checkpoint: str
    max_per_image: int
    device: str
    batch_size: int
    threads: int | None
    workers: int
    skip_bad_images: bool
    writer: StoreWriter


def start_extracting(job: Job) -> Callable[[Task, Callable[[int], None]], None]:
    """Load the job's network in this process; the returned function extracts a shard, writes it and counts images."""
    quiet()
    from ovd.models.proposal_network import ProposalNetwork  # loads mmdet, which is not quiet by itself

    cv2.setNumThreads(0)
    if job.threads:
        torch.set_num_threads(job.threads)
    cfg = load_config(job.config, job.options, job.data_root)
    network = ProposalNetwork(cfg, read_checkpoint(job.checkpoint), job.checkpoint, job.max_per_image, job.device)

    def extract(task: Task, done: Callable[[int], None]) -> None:
        shard, photos = task
        job.writer.write(shard, _propose(network, photos, job, done))

    return extract


def _propose(network: "ProposalNetwork", photos: list[Photo], job: Job,
             done: Callable[[int], None]) -> dict[int, Regions]:
    """Regions of ``photos`` by image id; one that cannot be read has none, where the job permits that."""
    def prepare(photo: Photo) -> "Prepared | None":
        try:
            return network.prepare(photo)
        except UserError:
            if not job.skip_bad_images:
                raise
            return None

    regions = {photo.image_id: Regions(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)) for photo in photos}
    batch: list[Prepared] = []

    def flush() -> None:
        for item, found in zip(batch, network.propose(batch) if batch else ()):
            regions[item.photo.image_id] = Regions(*found)
        done(len(batch))
        batch.clear()

    # images of one size one after the other, so that they can share batches
    ordered = sorted(photos, key=lambda photo: (photo.height, photo.width, photo.image_id))
    for item in lookahead(prepare, ordered, job.workers, ahead=2 * job.batch_size):
        if item is None:
            done(1)
            continue
        if batch and (len(batch) == job.batch_size or network.padded_shape(item) != network.padded_shape(batch[0])):
            flush()
        batch.append(item)
    flush()
    return regions
