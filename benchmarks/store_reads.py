"""Reading the regions of one image, at random, into a batch: region store against one ``torch.load`` per image.

The store's rows are copied from the memory map into the batch tensor; the peer loads a file per image that
``torch.save`` wrote, as DetPro's and OADP's caches do. Both take boxes and embeddings, in the same order of images,
with files in the page cache. The rounds alternate; the median of a round's time per image counts. The batches are
compared first.

    python benchmarks/store_reads.py [--images 2048] [--boxes 300] [--dim 512]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from figures import print_figure
from torch import Tensor

from ovd.stores.shards import Regions, RegionStore

BATCH = 16


def make_regions(image_id: int, boxes: int, dim: int) -> Regions:
    """Random regions with unit rows."""
    rng = np.random.default_rng(image_id)
    corner = rng.uniform(0, 300, (boxes, 2))
    raw = rng.standard_normal((boxes, dim), dtype=np.float32)
    return Regions(np.concatenate([corner, corner + rng.uniform(1, 300, (boxes, 2))], 1).astype(np.float32),
                   np.sort(rng.uniform(size=boxes).astype(np.float32))[::-1],
                   (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16))


def write(folder: Path, images: int, boxes: int, dim: int) -> None:
    """The same regions in a store and in a file per image."""
    writer = RegionStore.create(folder / "store", "regions", range(images), dim=dim)
    for shard in writer.missing():
        regions = {image_id: make_regions(image_id, boxes, dim) for image_id in writer.image_ids(shard)}
        writer.write(shard, regions)
        for image_id, region in regions.items():
            torch.save({"boxes": torch.from_numpy(region.boxes), "embeddings": torch.from_numpy(region.embeddings)},
                       folder / f"{image_id}.pth")
    writer.finish("embed-regions", {}, {})


def from_store(store: RegionStore, image_ids: list[int], boxes_BN4: Tensor, embeddings_BND: Tensor) -> None:
    """Fill a batch from the region store."""
    for row, image_id in enumerate(image_ids):
        regions = store.view(image_id)
        np.copyto(boxes_BN4[row].numpy(), regions.boxes)
        np.copyto(embeddings_BND[row].numpy(), regions.embeddings)


def from_files(folder: Path, image_ids: list[int], boxes_BN4: Tensor, embeddings_BND: Tensor) -> None:
    """Fill a batch from a file per image."""
    for row, image_id in enumerate(image_ids):
        regions = torch.load(folder / f"{image_id}.pth", weights_only=True)
        boxes_BN4[row] = regions["boxes"]
        embeddings_BND[row] = regions["embeddings"]


def seconds_per_image(read: Callable[[list[int]], None], order: np.ndarray) -> float:
    """Mean over ``order``, read in batches."""
    start = time.perf_counter()
    for first in range(0, len(order), BATCH):
        read(order[first:first + BATCH].tolist())
    return (time.perf_counter() - start) / len(order)


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048, help="images stored (%(default)s)")
    parser.add_argument("--boxes", type=int, default=300, help="boxes an image (%(default)s)")
    parser.add_argument("--dim", type=int, default=512, help="embedding width (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all images (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    boxes_BN4 = torch.empty(BATCH, args.boxes, 4)
    embeddings_BND = torch.empty(BATCH, args.boxes, args.dim, dtype=torch.float16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, args.images, args.boxes, args.dim)
        store = RegionStore(folder / "store")

        def ours(image_ids: list[int]) -> None:
            from_store(store, image_ids, boxes_BN4, embeddings_BND)

        def theirs(image_ids: list[int]) -> None:
            from_files(folder, image_ids, boxes_BN4, embeddings_BND)

        sample = list(range(0, args.images, max(1, args.images // BATCH)))[:BATCH]
        ours(sample)
        first = boxes_BN4.clone(), embeddings_BND.clone()
        theirs(sample)
        if not (torch.equal(first[0], boxes_BN4) and torch.equal(first[1], embeddings_BND)):
            raise SystemExit("the two ways differ")
        times: tuple[list[float], list[float]] = ([], [])
        for round_ in range(args.rounds + 1):
            order = np.random.default_rng(round_).permutation(args.images)
            for read, found in zip((ours, theirs), times):
                found.append(seconds_per_image(read, order))
        value, peer = (statistics.median(found[1:]) for found in times)  # the first round fills the page cache
        shards = len(list((folder / "store").glob("shard-*")))
    print_figure(f"region store read, one image of {args.boxes} x {args.dim} fp16, random, into a batch", value * 1e6,
                 "us", "torch.load of a file per image", peer * 1e6)
    print_figure(f"files, {args.images} images", shards, "files", "a file per image", args.images)


if __name__ == "__main__":
    main()
