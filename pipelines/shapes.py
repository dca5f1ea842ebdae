"""Render the embedded benchmark: scenes of patterned, coloured shapes, as COCO and LVIS annotations with a split."""

import argparse
import os
import time
from pathlib import Path

from ovd.errors import UserError

STAGE = "shapes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, default=Path("data/shapes"), help="where to write (%(default)s)")
    parser.add_argument("--train", type=int, default=1000, help="training scenes (%(default)s)")
    parser.add_argument("--val", type=int, default=250, help="validation scenes (%(default)s)")
    parser.add_argument("--size", type=int, default=192, help="side of a scene in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides every scene (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    parser.add_argument("--overwrite", action="store_true", help="render again, replacing what is there")


def run(args: argparse.Namespace) -> None:
    render(args.data_root, train=args.train, val=args.val, size=args.size, seed=args.seed, workers=args.workers,
           overwrite=args.overwrite)


def render(root: Path, *, train: int, val: int, size: int, seed: int, workers: int, overwrite: bool = False) -> None:
    """Write the benchmark below ``root`` unless it is there already."""
    from ovd.data.shapes.dataset import write_dataset
    from ovd.stores.manifest import Manifest, current_or_remove

    if min(train, val) < 1 or not 64 <= size <= 2048 or workers < 1 or seed < 0:
        raise UserError(f"cannot render {train} + {val} scenes of {size} px (seed {seed}, {workers} workers): needs at "
                        "least one scene of each subset, 64 to 2048 px, a seed from 0 and a worker")
    config = {"train": train, "val": val, "size": size, "seed": seed}
    finished = Manifest.path(root).exists() if root.is_dir() else False
    if finished and current_or_remove(root, STAGE, config, {}, overwrite):
        print(f"{root}: up to date")
        return
    started = time.time()
    counts = write_dataset(root, {"train": train, "val": val}, seed, size, workers)
    Manifest("dataset", STAGE, config, counts=counts, wall_seconds=round(time.time() - started, 3)).write(root)
    for subset, found in counts.items():
        print(f"{root}: {subset}: {found['images']} images, {found['annotations']} objects")
