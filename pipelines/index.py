"""Build the index of a region store, which makes `ovd search` fast, and print its recall against exact search.

    ovd build-index configs/shapes/vild.py                             # regions/train.faiss beside regions/train
    ovd build-index                                                    # the same where no other dataset has a store
    ovd build-index --store data/coco/regions/train --kind ivf-pq --memory 2

Exact up to 1 GiB of rows, then lists (ivf), then lists of codes (ivf-pq) where rows would take more than --memory.
See docs/search.md.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ovd.stores.region_index import RegionIndex
    from ovd.stores.shards import RegionStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/build_index.py``."""
    parser.add_argument("config", nargs="?", help="the config that says where the region store is "
                        "(default: that of the one dataset that has a store)")
    parser.add_argument("--data-root", help="use the dataset in this folder instead of the config's data_root")
    parser.add_argument("--subset", choices=("train", "val"), default="train", help="of the config (default: train)")
    parser.add_argument("--store", metavar="DIR", help="the region store (default: the config's)")
    parser.add_argument("--out", metavar="FILE", help="the index to write (default: the store's name with .faiss)")
    parser.add_argument("--kind", default="auto", help="exact, ivf, ivf-pq, or auto: by size (default)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="that the index may take (default: 4)")
    parser.add_argument("--recall", type=float, default=0.95, metavar="R", help="share of the ten nearest regions that "
                        "a search is to find (%(default)s); decides how many lists it looks into")
    parser.add_argument("--class-head", metavar="FILE", help="measure recall with these texts too (default: the "
                        "config's class_head, if there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of what lists are learned from (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="build again what is there")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/build_index.py`` and ``ovd build-index``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "cfg_options")}
    build(args.config, options=args.cfg_options, **options)
    return 0


def build(config: str | Path | None = None, *, options: Sequence[str] | Mapping[str, Any] = (),
          data_root: str | Path | None = None, subset: str = "train", store: str | Path | None = None,
          out: str | Path | None = None, kind: str = "auto", memory: float | None = None, recall: float = 0.95,
          class_head: str | Path | None = None, seed: int = 0, overwrite: bool = False) -> "RegionIndex":
    """Build the index of a store; one that is current is opened instead.

    Args:
        options: changes of the config.
        memory: GiB.
        Others: as the options of the command line.

    Raises:
        UserError: wrong or missing input; an existing index of another store or other options.
    """
    from tqdm import tqdm

    from ovd.stores.index_kinds import MEMORY
    from ovd.stores.region_index import build_index, index_file
    from ovd.stores.shards import RegionStore
    from pipelines.chosen_config import chosen_config
    from pipelines.region_settings import store_of

    start = time.perf_counter()
    if memory is not None and memory <= 0:
        raise UserError(f"--memory {memory:g}: needs more than 0 GiB")
    cfg = chosen_config(config, store, subset, options, data_root)
    opened = RegionStore(store or store_of(cfg, subset))
    if class_head is None and isinstance(cfg.get("class_head"), str):
        usual = Path(cfg.get("data_root") or "", cfg.class_head)
        class_head = usual if usual.exists() else None
    texts_TD = None if class_head is None else _texts(Path(class_head), opened)
    path = Path(out) if out else index_file(opened.path)
    with tqdm(total=opened.manifest.counts.get("regions"), desc="adding", unit=" regions", smoothing=0.1,
              delay=0.5) as bar:
        index = build_index(opened, path, kind, memory=MEMORY if memory is None else round(memory * 2**30), seed=seed,
                            recall=recall, texts_TD=texts_TD, overwrite=overwrite, progress=bar.update, say=bar.write)
    _report(index, recall, time.perf_counter() - start)
    return index


def _texts(path: Path, store: "RegionStore") -> "np.ndarray":
    """The first vector of each class, float32 ``[C, D]``, unit rows."""
    import torch.nn.functional as F

    from ovd.engine.preflight import check_pair
    from ovd.stores.class_registry import load_classes

    head = load_classes(path)
    check_pair(path, head, store.path, store)
    return F.normalize(head.weights[:, 0], dim=-1).numpy()


def _report(index: "RegionIndex", target: float, seconds: float) -> None:
    counts = index.counts
    print(f"{index.path}: {counts['rows']:,} regions of {counts['images']:,} images, kind {index.kind}, "
          f"{index.path.stat().st_size / 1e6:.1f} MB ({counts['bytes_per_row']:g} bytes a region), {seconds:.0f} s")
    if index.kind == "exact":
        print("a search compares every region: recall is 1")
        return
    again = f", compares {counts['refine']} candidates a hit again" if counts["refine"] > 1 else ""
    print(f"a search looks into {counts['nprobe']:,} of {counts['lists']:,} lists{again}")
    for name, shares in counts["recall"].items():
        figures = ", ".join(f"{share:.3f} at {k}" for k, share in shares.items())
        print(f"recall against exact search, {name} as queries: {figures}")
    if not counts["reached"]:
        print(f"the target of {target:g} at 10 is out of reach: choose a more exact kind with --kind")
