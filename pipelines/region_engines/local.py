"""Shards of regions embedded on this machine: in this process, or in several."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ovd.clip.shard_job import RegionJob, ShardEmbedder
from ovd.clip.throughput import Work
from ovd.clip.towers import ClipModel
from ovd.engine.workers import run_tasks
from pipelines.region_engines.bar import CropsBar


def embed_shards(job: RegionJob, clip: ClipModel, shards: Sequence[int], processes: int, bar: CropsBar) -> None:
    """Embed ``shards`` in ``processes`` processes (1: this one), each with its share of torch's threads.

    Args:
        clip: The job's CLIP, for the case of one process; others load their own.

    Raises:
        UserError: What a shard raised, or a process that died. Finished shards stay.
    """
    if processes == 1:
        _embed_here(ShardEmbedder(job, clip), shards, bar)
        return
    threads = max(1, torch.get_num_threads() // processes)
    run_tasks(start_embedding, (job, threads), shards, processes, bar, bar.add)


def start_embedding(job: RegionJob, threads: int) -> Callable[[int, Callable[[int], None]], Work]:
    """What a process does with shards, once it has loaded what it needs."""
    torch.set_num_threads(threads)
    return ShardEmbedder(job)


def _embed_here(embedder: ShardEmbedder, shards: Sequence[int], bar: CropsBar) -> None:
    """One shard is written while the next is embedded."""
    writing: Future | None = None
    with ThreadPoolExecutor(1) as writer:
        for shard in shards:
            embedded = embedder.embed(shard, bar.update)
            bar.add(embedded.work)
            if writing:
                writing.result()
            writing = writer.submit(embedder.write, embedded)
        if writing:
            writing.result()
