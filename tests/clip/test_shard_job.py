"""Shards: the same bytes however they are embedded, in threads and with images decoded ahead."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ovd.clip.crops import CropRecipe
from ovd.clip.levels import Objects
from ovd.clip.shard_job import ImageFile, RegionJob, ShardEmbedder
from ovd.clip.towers import ClipModel
from ovd.errors import UserError
from ovd.stores.shards import Regions, RegionStore

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
COUNTS = [3, 0, 5, 1, 4, 2, 0]  # regions of the images


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP).eval().requires_grad_(False)
    return ClipModel("tiny", model, None, 16, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD,
                     "sha256:tiny", True, torch.device("cpu"))


@pytest.fixture
def job(tmp_path):
    """Makes a job on seven images in three shards."""
    rng = np.random.default_rng(0)
    images, proposals = {}, {}
    for image_id, count in enumerate(COUNTS):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{image_id}.png")
        images[image_id] = ImageFile(tmp_path / f"{image_id}.png", 50, 40)
        corners = rng.uniform(0, 30, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(3, 20, (count, 2))]).astype(np.float32)
        proposals[image_id] = Regions(boxes.reshape(-1, 4), np.sort(rng.random(count).astype(np.float32))[::-1])
    writer = RegionStore.create(tmp_path / "proposals", "proposals", images)
    writer.write(0, proposals)
    writer.finish("proposals", {}, {})

    def make(name, **options):
        store = RegionStore.create(tmp_path / name, "regions", images, images_per_shard=3, dim=16)
        level = Objects(RegionStore(tmp_path / "proposals"), CropRecipe())
        return RegionJob(store, images, level, {}, **options)

    return make


def content(job):
    return [file.read_bytes() for file in sorted(job.writer.path.glob("shard-*.h5"))]


def run(job, clip):
    embedder, counted = ShardEmbedder(job, clip), []
    work = [embedder(shard, counted.append) for shard in job.writer.missing()]
    return content(job), counted, work


def test_decoding_ahead_gives_the_same_bytes(job, clip):
    here, counted, work = run(job("here"), clip)
    ahead, counted_ahead, _ = run(job("ahead", readers=3), clip)
    assert here == ahead and len(here) == 3
    assert counted == counted_ahead == [2 * count for count in COUNTS]  # two crops a region
    assert [part.crops for part in work] == [16, 14, 0]
    assert all(part.seconds > 0 for part in work[:2])


def test_threads_that_share_an_embedder_give_the_same_bytes(job, clip):
    expected, _, _ = run(job("alone"), clip)
    shared = job("shared")
    embedder = ShardEmbedder(shared, clip)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(embedder, shared.writer.missing()))
    assert content(shared) == expected


def test_what_is_embedded_is_on_disk_only_once_it_is_written(job, clip):
    halves = job("halves")
    embedder = ShardEmbedder(halves, clip)
    embedded = embedder.embed(0)
    assert content(halves) == []
    embedder.write(embedded)
    assert len(content(halves)) == 1 and 0 not in halves.writer.missing()


@pytest.mark.parametrize("readers", [0, 2])
def test_an_image_that_cannot_be_read_stops_its_shard_or_is_left_empty(job, clip, readers):
    stopping = job("stopping", readers=readers)
    stopping.images[4].path.write_bytes(b"nothing")
    embedder = ShardEmbedder(stopping, clip)
    embedder(0)
    with pytest.raises(UserError, match=r"4\.png"):
        embedder(1)
    assert stopping.writer.missing() == [1, 2]
    embedder(2)  # the embedder is as good as before
    skipping = job("skipping", readers=readers, skip_bad_images=True)
    run(skipping, clip)
    skipping.writer.finish("embed-regions", {}, {})
    store = RegionStore(skipping.writer.path)
    assert [len(store[image_id]) for image_id in range(7)] == [3, 0, 5, 1, 0, 2, 0]
