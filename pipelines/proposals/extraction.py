"""Extraction of proposals: which shards are to be made, by which processes, and what came of it."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from ovd.data.images import check_image_file
from ovd.engine.checkpoints import read_checkpoint
from ovd.engine.config import load_config
from ovd.engine.conversion.usage import check_usage
from ovd.engine.launch import choose_device, is_main, on_main, quiet, start_processes, stop_processes, world_size
from ovd.engine.workers import available_cores, run_tasks
from ovd.errors import UserError
from ovd.evaluation.recall import Recall
from ovd.models.proposal_network import ProposalNetwork, trained_classes
from ovd.stores.layout import Shard, shard_name
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint
from ovd.stores.shards import RegionStore, StoreWriter
from pipelines.parts import read_part, shards_of_part
from pipelines.proposals.inputs import Settings, Subset, configuration
from pipelines.proposals.job import Job, Task, start_extracting
from pipelines.proposals.recall import report_recall

STAGE = "proposals"
MAX_PROCESSES = 8  # by default, on a processor; each has a network of its own in memory
PATIENCE = 7 * 24 * 3600.0  # seconds that processes of a distributed run wait for the slowest


def extract_proposals(config: str | Path, checkpoint: str | Path, *, options: Sequence[str] | Mapping[str, Any] = (),
                      data_root: str | Path | None = None, subsets: Sequence[str] = ("train", "val"),
                      out: str | Path | None = None, max_per_image: int | None = None, device: str = "auto",
                      batch_size: int | None = None, processes: int | None = None, threads: int | None = None,
                      workers: int | None = None, launcher: str = "none", part: str | None = None,
                      on_error: str = "stop", overwrite: bool = False,
                      recall_images: int = 5000) -> dict[str, dict[str, Recall]]:
    """Extract the proposals of ``subsets`` into their stores.

    Args:
        options, data_root: see :func:`ovd.engine.config.load_config`.
        Others: as the options of the command line; None takes the config's value or the default.

    Returns:
        subset -> group of classes -> recall, of stores that are finished; empty with ``recall_images=0`` and in other
        than the first process.

    Raises:
        UserError: wrong or missing input, an existing store of another configuration.
    """
    _check_options(batch_size=batch_size, processes=processes, threads=threads, workers=workers,
                   recall_images=recall_images)
    if out and len(subsets) > 1:
        raise UserError("--out is one store: name the subset too, --subset train or --subset val")
    if launcher != "none" and processes not in (None, 1):
        raise UserError("--processes: torchrun has started the processes already; leave it out")
    own_part = read_part(part, overwrite)
    quiet()
    torch_device = choose_device(device)
    on_gpu = torch_device.type == "cuda"
    cfg = load_config(config, options, data_root)
    settings = Settings.read(cfg, max_per_image=max_per_image, batch_size=batch_size)
    weights = read_checkpoint(checkpoint)
    ProposalNetwork(cfg, weights, checkpoint)  # refuses what does not fit, before the data are read
    check_usage(checkpoint, weights, cfg.model)
    todo = [Subset.read(cfg, name, out) for name in subsets]
    if len({subset.store for subset in todo}) < len(todo):
        raise UserError(f"{cfg.filename}: train and val share the store {todo[0].store}; fill it from one of them, "
                        "--subset train or --subset val")
    job = {"config": str(config), "options": options, "data_root": data_root and str(data_root),
           "checkpoint": str(checkpoint), "max_per_image": settings.max_per_image, "device": str(torch_device),
           "batch_size": settings.batch_size or (16 if on_gpu else 2), "threads": threads,
           "workers": workers if workers is not None else 8 if on_gpu else 0, "skip_bad_images": on_error == "skip"}
    record = {"config": {**configuration(cfg), "max_per_image": settings.max_per_image},
              "inputs": {"checkpoint": fingerprint(checkpoint)}}
    recalls = {}
    start_processes(launcher, torch_device, PATIENCE)
    try:
        for subset in todo:
            shard_size = settings.shard_size(len(subset.photos))
            shards = -(-len(subset.photos) // shard_size)
            here = processes or (1 if on_gpu or launcher != "none" else min(available_cores(), MAX_PROCESSES, shards))
            subset_record = {"config": {**record["config"], "images_per_shard": shard_size},
                             "inputs": {**record["inputs"], "annotations": subset.fingerprint}}
            finished = _extract_subset(subset, subset_record, shard_size, job, here, trained_classes(weights),
                                       own_part, overwrite)
            if finished and is_main() and recall_images:
                recalls[subset.name] = report_recall(subset, recall_images)
    finally:
        stop_processes()
    return recalls


def _check_options(**options: int | None) -> None:
    for name, value in options.items():
        least = 0 if name in ("workers", "recall_images") else 1
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: needs {least} or more")


def _extract_subset(subset: Subset, record: dict, shard_size: int, job: dict, processes: int,
                    trained: tuple[str, ...] | None, part: tuple[int, int] | None, overwrite: bool) -> bool:
    """Bring one store, or its ``part``, up to date; every process of a distributed run calls this.

    Returns:
        In the first process whether the store is finished.
    """
    start = time.perf_counter()
    if on_main(lambda: current_or_remove(subset.store, STAGE, **record, overwrite=overwrite)):
        if is_main():
            print(f"{subset.store} is up to date")
        return True
    plan = {"path": subset.store, "kind": "proposals", "image_ids": subset.photos, "images_per_shard": shard_size,
            "config": record}
    on_main(lambda: RegionStore.create(**plan, overwrite=overwrite) is None)
    writer = RegionStore.create(**plan)
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(writer.exclusive(part)) is None)  # the first process holds it for all
        missing = on_main(lambda: shards_of_part(writer.missing(), part))
        rank = dist.get_rank() if dist.is_initialized() else 0
        tasks = [(shard, [subset.photos[image_id] for image_id in writer.image_ids(shard)])
                 for shard in missing[rank::world_size()]]
        _check_files(tasks, job["skip_bad_images"])
        threads = job["threads"] or (max(1, torch.get_num_threads() // processes) if processes > 1 else None)
        with tqdm(total=sum(len(photos) for _, photos in tasks), desc=f"proposals of {subset.name}", unit=" images",
                  disable=not is_main(), dynamic_ncols=True) as bar:
            run_tasks(start_extracting, (Job(**{**job, "threads": threads}, writer=writer),), tasks, processes, bar)
        if dist.is_initialized():
            dist.barrier()
        if is_main() and part and (others := writer.missing()):
            print(f"{subset.store}: part {part[0]}/{part[1]} is there; {len(others)} of {writer.total_shards} shards "
                  "are left to other parts")
            return False
        if is_main():
            seconds = time.perf_counter() - start
            novel = [name for name in subset.split.novel if name in trained] if subset.split and trained else []
            manifest = writer.finish(STAGE, **record, wall_seconds=round(seconds, 1), skipped=_skipped(writer, subset),
                                     flags={"trained_on": trained, "trained_on_novel": novel})
            report(subset, manifest, len(missing), seconds)
    return True


def _check_files(tasks: list[Task], skip_bad_images: bool) -> None:
    """Look at all image files before work is spent on the first."""
    problems = []
    for photo in tqdm([photo for _, photos in tasks for photo in photos], desc="checking images", unit=" images",
                      leave=False, disable=not is_main()):
        try:
            check_image_file(photo.path)
        except UserError as error:
            problems.append(str(error))
    if problems and not skip_bad_images:
        raise UserError(problems[0] + (f" ({len(problems) - 1} more images are like this)" if problems[1:] else ""))


def _skipped(writer: StoreWriter, subset: Subset) -> list[dict]:
    """Images that are stored without a box, and why; also those of an earlier, interrupted run."""
    skipped = []
    for number in range(writer.total_shards):
        shard = Shard(writer.path / shard_name(number, writer.total_shards))
        for image_id in shard.image_id[np.diff(shard.offset) == 0].tolist():
            photo, reason = subset.photos[image_id], "no proposals, or not readable when its shard was made"
            try:
                check_image_file(photo.path)
            except UserError as error:
                reason = str(error)
            skipped.append({"image_id": image_id, "file": Path(photo.path).name, "reason": reason})
    return skipped


def report(subset: Subset, manifest: Manifest, shards_made: int, seconds: float) -> None:
    """Print what a finished store holds and where its boxes come from."""
    counts = manifest.counts
    before = counts["shards"] - shards_made
    print(f"{subset.store}: {counts['regions']:,} proposals of {counts['images']:,} images "
          f"({counts['regions'] / counts['images']:.1f} an image) in {counts['shards']} shards, {seconds:.0f} s"
          + (f"; {before} shards were there before" if before else ""))
    for entry in manifest.skipped[:5]:
        print(f"left out image {entry['image_id']}: {entry['reason']}")
    if manifest.skipped:
        print(f"{len(manifest.skipped)} images are stored without proposals, see {Manifest.path(subset.store)}")
    novel = manifest.flags.get("trained_on_novel")
    if manifest.flags.get("trained_on") is None:
        print("note: which classes the proposal network was trained on is not known; novel ones among them are a leak")
    elif novel:
        print(f"note: the proposal network was trained on {len(novel)} of the {len(subset.split.novel)} novel classes, "
              f"such as {novel[0]}: a leak; train one on base annotations for figures that can be compared")
