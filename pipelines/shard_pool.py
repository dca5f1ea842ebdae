"""Shards spread over processes of this machine, with one progress bar."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from ovd.clip.shard_job import RegionJob, ShardEmbedder
from ovd.clip.towers import ClipModel
from ovd.errors import UserError

_embedder: ShardEmbedder
_done: "multiprocessing.sharedctypes.Synchronized"


def embed_shards(job: RegionJob, clip: ClipModel, shards: Sequence[int], processes: int, bar: tqdm) -> None:
    """Embed ``shards`` in ``processes`` processes (1: this one), each with its share of torch's threads.

    Args:
        clip: The job's CLIP, for the case of one process; others load their own.
        bar: Counts regions.

    Raises:
        UserError: What a shard raised, or a process that died. Finished shards stay.
    """
    if processes == 1 or not shards:
        embed = ShardEmbedder(job, clip)
        for shard in shards:
            embed(shard, bar.update)
        return
    context = multiprocessing.get_context("spawn")  # a fork would not survive the threads of torch, nor CUDA
    done = context.Value("q", 0)
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(min(processes, len(shards)), context, _begin, (job, threads, done)) as pool:
        try:
            waiting = {pool.submit(_embed, shard) for shard in shards}
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                bar.update(done.value - bar.n)
                for future in finished:
                    future.result()
            bar.update(done.value - bar.n)
        except BrokenProcessPool:
            raise UserError("a process was killed, perhaps for want of memory; run the same command again to go on "
                            "(fewer --processes need less)") from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(job: RegionJob, threads: int, done: "multiprocessing.sharedctypes.Synchronized") -> None:
    global _embedder, _done
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _embedder, _done = ShardEmbedder(job), done


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _embed(shard: int) -> None:
    _embedder(shard, _count)


def _count(regions: int) -> None:
    with _done.get_lock():
        _done.value += regions
