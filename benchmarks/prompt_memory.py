"""Memory of prompt learning, by the number of training pairs: read from the stores against held as one tensor.

Learns a context for one epoch, in a process of its own for each number of pairs, and takes the growth of that process's
peak resident memory over what it had before. The peer trains on the same pairs with all their embeddings in one float32
tensor, as DetPro's released code does with its train_data.pth. Stores are generated: random rows, 100 an image.

    python benchmarks/prompt_memory.py [--pairs 10000 100000 1000000] [--dim 512]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
from figures import print_figure
from torch import Tensor

from ovd.clip.prompts.batches import PairReader
from ovd.clip.prompts.learner import learn_context
from ovd.clip.prompts.pairs import RECORD, PairFile, Selection, append
from ovd.clip.prompts.settings import PromptSettings
from ovd.clip.prompts.tower import PromptTower
from ovd.clip.towers import ClipModel
from ovd.stores.shards import Regions, RegionStore

PER_IMAGE, IMAGES_PER_SHARD = 100, 128
NAMES = [f"class {letter}" for letter in "abcdefgh"]


def generate(folder: Path, pairs: int, dim: int) -> None:
    """A region store of ``pairs`` rows, and records that use every one of them."""
    images = pairs // PER_IMAGE
    writer = RegionStore.create(folder / "store", "regions", range(images), IMAGES_PER_SHARD, dim)
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (PER_IMAGE, 1))
    for shard in writer.missing():
        rng = np.random.default_rng(shard)
        contents = {}
        for image_id in writer.image_ids(shard):
            rows = rng.standard_normal((PER_IMAGE, dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            contents[image_id] = Regions(boxes, np.ones(PER_IMAGE, np.float32), rows.astype(np.float16))
        writer.write(shard, contents)
    writer.finish("embed-regions", {}, {})
    with open(folder / "pairs.bin", "wb") as file:
        for image in range(images):
            records = np.zeros(PER_IMAGE, RECORD)
            records["image"], records["row"] = image, np.arange(PER_IMAGE)
            records["iou"] = np.where(np.arange(PER_IMAGE) % 2, 0.55, 0.3)
            records["label"] = np.where(np.arange(PER_IMAGE) % 2, (image + np.arange(PER_IMAGE) // 2) % len(NAMES), -1)
            append(file, records)


def small_clip(dim: int) -> ClipModel:
    """A CLIP with a text tower so small that memory is that of the pairs."""
    torch.manual_seed(0)
    model = open_clip.CLIP(dim, {"layers": 1, "width": 16, "head_width": 16, "image_size": 16, "patch_size": 8},
                           {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1})
    return ClipModel("small", model.eval().requires_grad_(False), open_clip.SimpleTokenizer(context_length=24), 16,
                     (0.5,) * 3, (0.5,) * 3, "sha256:small", False, torch.device("cpu"))


class OneTensor(PairReader):
    """The peer: the same batches' worth of pairs, all embeddings in memory."""

    def batches(self, selection: Selection, size: int, seed: tuple[int, ...] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """As :meth:`PairReader.batches`."""
        records = np.concatenate(list(selection.of(self.pairs)))
        embeddings_PD = torch.empty(len(records), self.stores[0].dim)
        for first in range(0, len(records), 4096):
            part = records[first:first + 4096]
            embeddings_PD[first:first + len(part)] = torch.from_numpy(self.read(part))
        labels_P = torch.from_numpy(records["label"].astype(np.int64))
        for rows in torch.from_numpy(np.random.default_rng(seed).permutation(len(records))).split(size):
            yield embeddings_PD[rows], labels_P[rows]


def peak() -> float:
    """Highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, dim: int, peer: bool) -> float:
    """Growth of the peak over an epoch, in MB; to be called once in a process."""
    tower = PromptTower(small_clip(dim))
    settings = PromptSettings(ranges=((0.5, 0.6),), negatives_kept=1.0, epochs=1, temperature=0.1)
    store = RegionStore(folder / "store", mapped_shards=1)
    reader = (OneTensor if peer else PairReader)(PairFile(folder / "pairs.bin"), store, None)
    before = peak()
    learn_context(tower, NAMES, reader, settings, settings.ranges[0])
    return peak() - before


def main() -> None:
    """Print a json line for each number of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="(%(default)s)")
    parser.add_argument("--dim", type=int, default=256, help="embedding width (%(default)s)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # folder and kind: this is a child
    args = parser.parse_args()
    if args.measure:
        torch.set_num_threads(1)
        print(measure(Path(args.measure[0]), args.dim, args.measure[1] == "peer"))
        return
    for pairs in args.pairs:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), pairs, args.dim)
            value, peer_value = (
                float(subprocess.run([sys.executable, __file__, "--dim", str(args.dim), "--measure", folder, kind],
                                     check=True, capture_output=True, text=True).stdout)
                for kind in ("stores", "peer"))
        print_figure(f"prompt learning, {pairs:,} pairs of width {args.dim}: growth of peak memory", value, "MB",
                     "all embeddings in one tensor", peer_value)


if __name__ == "__main__":
    main()
