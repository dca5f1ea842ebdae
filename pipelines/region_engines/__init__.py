"""How the shards of a region store are spread: over processes of this machine, the ranks of a torchrun job, the workers
of a Ray cluster, or the jobs of an array.

All of them give shards, the units of work, to :class:`ovd.clip.shard_job.ShardEmbedder`, so the store has the same
bytes whoever makes it (on one kind of device), and a run of any kind goes on with what another left.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError
from pipelines.parts import HELP, read_part, shards_of_part

if TYPE_CHECKING:
    import torch

    from ovd.clip.shard_job import RegionJob
    from ovd.clip.towers import ClipModel
    from ovd.stores.shards import StoreWriter
    from pipelines.region_engines.bar import CropsBar

ENGINES = ("local", "ray")
PATIENCE = 7 * 24 * 3600.0  # seconds that ranks of a torchrun job wait for the slowest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that :meth:`Spread.read` takes, but for those that other stages have too."""
    parser.add_argument("--engine", choices=ENGINES, default="local", help="local: processes of this machine; ray: "
                        "workers of a Ray cluster, as many as there is room for, lost ones replaced (default: local)")
    parser.add_argument("--address", metavar="ADDR", help="with --engine ray: join the cluster at HOST:PORT, or auto "
                        "for the one of this machine (default: start one on this machine, for this run)")
    parser.add_argument("--part", metavar="I/N", help=HELP)
    parser.add_argument("--launcher", choices=("none", "pytorch"), default="none",
                        help="pytorch: one of the processes that torchrun started (tools/dist_embed_regions.sh does)")


@dataclass(frozen=True)
class Spread:
    """Which processes make which shards.

    Attributes:
        engine, address, launcher: As the options of the command line.
        part: ``(i, n)``: this run makes the shards i-1, i-1+n, ... of the store; None: all.
        processes: With ``local`` how many, with ``ray`` how many at most; None for what the machines have.
    """

    engine: str = "local"
    address: str | None = None
    launcher: str = "none"
    part: tuple[int, int] | None = None
    processes: int | None = None

    @classmethod
    def read(cls, engine: str = "local", address: str | None = None, launcher: str = "none", part: str | None = None,
             processes: int | None = None, overwrite: bool = False) -> "Spread":
        """Check the options of a run; UserError for such as do not go together."""
        if engine == "ray":
            from pipelines.region_engines.ray_engine import check_address

            check_address(address)
        elif address:
            raise UserError(f"--address {address}: is that of a Ray cluster; add --engine ray")
        if launcher != "none" and engine == "ray":
            raise UserError("--launcher pytorch: torchrun has started the processes already; leave out --engine ray")
        if launcher != "none" and processes not in (None, 1):
            raise UserError("--processes: torchrun has started the processes already; leave it out")
        return cls(engine, address, launcher, read_part(part, overwrite), processes)

    @contextmanager
    def started(self, device: str) -> Iterator["torch.device"]:
        """Be one of torchrun's ranks, or connected to a Ray cluster, for the time of the run.

        Args:
            device: ``auto``, ``cpu`` or ``cuda``.

        Yields:
            What the encoders compute on; with Ray not necessarily something that this process has.
        """
        import torch

        if self.engine == "ray":
            from pipelines.region_engines.ray_engine import ray_cluster

            with ray_cluster(self.address, self.processes, device) as on_gpu:
                yield torch.device("cuda" if on_gpu else "cpu")
            return
        from ovd.engine.launch import choose_device, start_processes, stop_processes

        own = choose_device(device)
        start_processes(self.launcher, own, PATIENCE)
        try:
            yield own
        finally:
            stop_processes()

    def device_here(self, device: "torch.device") -> str:
        """Where this process loads the CLIP: on the encoders' ``device``, unless those are of a cluster."""
        return "cpu" if self.engine == "ray" else str(device)

    @contextmanager
    def exclusive(self, writer: "StoreWriter") -> Iterator[None]:
        """Hold the store, or this run's part of it; in a torchrun job rank 0 does, for all."""
        from ovd.engine.launch import on_main

        with ExitStack() as stack:
            on_main(lambda: stack.enter_context(writer.exclusive(self.part)) is None)
            yield

    def missing(self, writer: "StoreWriter") -> list[int]:
        """The shards that this run, with all its ranks, is still to make."""
        from ovd.engine.launch import on_main

        return on_main(lambda: shards_of_part(writer.missing(), self.part))

    def own(self, missing: list[int]) -> list[int]:
        """Those of the run's shards that this process is to see to: all, or its rank's."""
        import torch.distributed as dist

        return missing[dist.get_rank()::dist.get_world_size()] if dist.is_initialized() else missing

    def embed(self, job: "RegionJob", clip: "ClipModel", shards: list[int], processes: int, bar: "CropsBar",
              readers: int | None = None) -> None:
        """Embed ``shards``; returns when all ranks have, with what all of them did in ``bar.work``.

        Args:
            clip: The job's CLIP, loaded.
            processes: Of the local engine.
            readers: That the user asked for; None leaves it to the workers of a cluster, which know their machines.

        Raises:
            UserError: What a shard raised, or processes that died. Finished shards stay.
        """
        if self.engine == "ray":
            from pipelines.region_engines.ray_engine import embed_with_ray

            embed_with_ray(job, shards, bar, processes=self.processes, readers=readers)
            return
        import torch.distributed as dist

        from pipelines.region_engines.local import embed_shards

        embed_shards(job, clip, shards, processes, bar)
        if dist.is_initialized():
            works: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(works, bar.work)
            bar.work, bar.encoders = sum(works[1:], works[0]), len(works)
