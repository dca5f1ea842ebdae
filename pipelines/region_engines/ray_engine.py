"""Shards as tasks of a Ray cluster (https://docs.ray.io): a pool of actors that grows with the cluster.

Each actor loads the CLIP once and embeds shard after shard. Actors are added while the cluster has room for them, so
nodes that join later are used. The shards of an actor that is lost, with its node or alone, go back to the queue.
"""

import os
import pickle
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch
from tqdm import tqdm

from ovd.clip.shard_job import RegionJob, ShardEmbedder
from ovd.clip.throughput import Work
from ovd.engine.workers import available_cores
from ovd.errors import UserError
from ovd.stores.layout import shard_name
from pipelines.region_engines.bar import CropsBar

MAX_READERS = 16
MOST_LOSSES = 3  # of actors, to one shard or as they start, before the run stops
TICK = 0.5  # seconds between looks at the cluster and at how far the actors are
OBJECT_STORE = 100 << 20  # bytes of a cluster of our own; it holds little more than the job


def check_address(address: str | None) -> None:
    """UserError where Ray is not installed, or an ``address`` is of a kind that does not work here."""
    if find_spec("ray") is None:
        raise UserError("--engine ray: Ray is not installed; pip install 'ray>=2.40' (or this project's extra ray)")
    if address and address.startswith("ray://"):
        raise UserError(f"--address {address}: Ray Client is not supported; run on a machine of the cluster with "
                        "--address auto, or give HOST:PORT")


@contextmanager
def ray_cluster(address: str | None, processes: int | None, device: str) -> Iterator[bool]:
    """Be connected to a cluster: the one at ``address``, or, without, one on this machine that ends with the block.

    Args:
        processes: Workers that one of our own has cores for.
        device: ``auto``, ``cpu`` or ``cuda``.

    Yields:
        Whether its workers are to use GPUs: where it has any, unless ``device`` says no.

    Raises:
        UserError: No cluster, or none of the kind that is wanted.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs keeps its environment
    os.environ.setdefault("RAY_worker_niceness", "0")  # of workers of our own cluster; they are what it is there for
    if not address and not any(name.startswith("RAY_AUTH_") for name in os.environ):
        # nobody else on the network may use it; Ray would do the same with a token that it leaves in the home folder
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    if address:
        options = {"address": address}
    else:
        options = {"address": "local", "num_cpus": processes or available_cores(), "include_dashboard": False,
                   "object_store_memory": OBJECT_STORE}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not address:
            raise UserError(f"Ray did not start ({reason})") from error
        raise UserError(f"--address {address}: no Ray cluster could be joined there ({reason}); is it up, and if it "
                        "wants a token, is RAY_AUTH_MODE=token set here too?") from error
    try:
        gpus = ray.cluster_resources().get("GPU", 0) >= 1
        if device == "cuda" and not gpus:
            raise UserError("--device cuda: the Ray cluster has no GPU; leave it out, or --device cpu")
        yield gpus and device != "cpu"
    finally:
        ray.shutdown()  # a cluster that was there before is only left; our actors end with that


def embed_with_ray(job: RegionJob, shards: list[int], bar: CropsBar, *, processes: int | None = None,
                   readers: int | None = None) -> None:
    """Embed ``shards`` on the cluster that this process is connected to, on a GPU or a core an actor, as the job says.

    Args:
        processes: Actors at most; None for as many as there is room for.
        readers: Threads of an actor that decode ahead; None for its share of its machine's cores, 0 without a GPU.

    Raises:
        UserError: What a shard raised; a shard, or a start, that costs actor after actor their lives.
    """
    if shards:
        _Pool(job, shards, bar, processes, readers).run()


class RegionWorker:
    """An actor. What a user has to know comes back as text: Ray would wrap the error."""

    def __init__(self, pickled: bytes, folder: str, plan: bytes, on_gpu: bool, readers: int | None) -> None:
        self._pickled, self._folder, self._plan = pickled, folder, plan
        self._on_gpu, self._readers = on_gpu, readers
        self._under_way: dict[int, int] = {}
        self._embedder: Callable[..., Work] | None = None

    def start(self) -> str | None:
        """Load the CLIP; returns why this machine cannot embed, or None."""
        from ovd.engine.launch import choose_device

        shared = "a Ray cluster needs code and data on a path that all of its machines share"
        try:
            os.chdir(self._folder)
        except OSError as error:
            return f"{self._folder}: not there on {socket.gethostname()} ({error.strerror}); {shared}"
        job: RegionJob = pickle.loads(self._pickled)
        self._pickled = b""
        with suppress(OSError):
            if (job.writer.path / "plan.json").read_bytes() == self._plan:
                self._plan = b""
        if self._plan:
            return f"{job.writer.path}: the store that this run began is not there on {socket.gethostname()}; {shared}"
        try:
            device = choose_device("cuda" if self._on_gpu else "cpu")
            if not self._on_gpu:
                torch.set_num_threads(1)
            self._embedder = ShardEmbedder(replace(job, clip={**job.clip, "device": device}, readers=self._threads()))
        except UserError as error:
            return f"on {socket.gethostname()}: {error}"
        return None

    def _threads(self) -> int:
        """That decode ahead."""
        import ray

        if self._readers is not None or not self._on_gpu:
            return self._readers or 0
        here = ray.get_runtime_context().get_node_id()
        gpus = next((node["Resources"].get("GPU", 1) for node in ray.nodes() if node["NodeID"] == here), 1)
        return min(MAX_READERS, max(1, int(available_cores() // gpus)))

    def embed(self, shard: int) -> tuple[int, Work | str]:
        """Embed and write a shard; returns the number of its crops, and the work done or what the user did wrong."""
        self._under_way[shard] = 0

        def count(crops: int) -> None:
            self._under_way[shard] += crops

        try:
            work = self._embedder(shard, count)
        except UserError as error:
            return 0, str(error)
        finally:
            crops = self._under_way.pop(shard)
        return crops, work

    def under_way(self) -> int:
        """Crops done of shards that are not."""
        return sum(list(self._under_way.values()))


@dataclass(eq=False)
class _Member:
    """An actor of the pool, as the driver knows it."""

    actor: Any
    started: bool = False
    shards: list[int] = field(default_factory=list)
    crops: int = 0  # of them that are done
    asked: bool = False  # how far it is


class _Pool:
    """Gives shards to actors until none is left."""

    def __init__(self, job: RegionJob, shards: list[int], bar: CropsBar, most: int | None,
                 readers: int | None) -> None:
        self.job, self.bar, self.readers = job, bar, readers
        self.on_gpu = torch.device(job.clip["device"]).type == "cuda"
        self.waiting = deque(shards)
        self.most = min(most or len(shards), len(shards))
        self.depth = 2 if self.on_gpu else 1  # shards at a time: one is written while the next is computed
        self.members: list[_Member] = []
        self.calls: dict[Any, tuple[_Member, str, int | None]] = {}
        self.losses: Counter[int | None] = Counter()  # of actors, by shard; None: as they started
        self.done = 0  # crops

    def run(self) -> None:
        """Returns when all shards are on disk."""
        import ray

        pickled = ray.put(pickle.dumps(self.job, pickle.HIGHEST_PROTOCOL))
        plan = (self.job.writer.path / "plan.json").read_bytes()
        actor_class = ray.remote(num_cpus=1, num_gpus=1 if self.on_gpu else 0, max_concurrency=self.depth + 1,
                                 max_restarts=0, max_task_retries=0)(RegionWorker)
        new_actor = lambda: actor_class.remote(pickled, os.getcwd(), plan, self.on_gpu, self.readers)  # noqa: E731
        look = 0.0
        while self.waiting or any(member.shards for member in self.members):
            if time.monotonic() >= look:
                look = time.monotonic() + TICK
                self._grow(new_actor)
                self._ask()
                self._show()
            self._assign()
            for call in ray.wait(list(self.calls), num_returns=1, timeout=TICK)[0]:
                self._answer(call)
        self._show()
        for member in self.members:
            ray.kill(member.actor)

    def _call(self, member: _Member, method: str, shard: int | None = None) -> None:
        arguments = () if shard is None else (shard,)
        self.calls[getattr(member.actor, method).remote(*arguments)] = member, method, shard

    def _grow(self, new_actor: Callable[[], Any]) -> None:
        """Ask for as many actors as the cluster has room for, or for one more, which waits until there is some."""
        import ray

        free = ray.available_resources()
        room = int(min(free.get("CPU", 0), free.get("GPU", 0) if self.on_gpu else free.get("CPU", 0)))
        starting = sum(not member.started for member in self.members)
        wanted = min(max(room, 1), len(self.waiting)) - starting
        for _ in range(min(wanted, self.most - len(self.members))):
            member = _Member(new_actor())
            self.members.append(member)
            self._call(member, "start")

    def _assign(self) -> None:
        """Fill the members up, all with one shard before any with two. One that cost an actor its life goes alone."""
        for depth in range(1, self.depth + 1):
            for member in self.members:
                if not self.waiting:
                    return
                together = [self.waiting[0], *member.shards]
                suspect = len(together) > 1 and any(map(self.losses.get, together))
                if member.started and len(together) <= depth and not suspect:
                    shard = self.waiting.popleft()
                    member.shards.append(shard)
                    self._call(member, "embed", shard)

    def _ask(self) -> None:
        for member in self.members:
            if member.shards and not member.asked:
                member.asked = True
                self._call(member, "under_way")

    def _answer(self, call: Any) -> None:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

        member, method, shard = self.calls.pop(call)
        try:
            result = ray.get(call)
        except (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
            self._lost(member, error)
            return
        if method == "under_way":
            member.asked, member.crops = False, result
        elif method == "start":
            if result:
                raise UserError(result)
            if not self.done and not any(other.started for other in self.members):
                self.bar.reset()  # it times embedding, not loading
            member.started = True
            self.losses.pop(None, None)
        else:
            crops, work = result
            if isinstance(work, str):
                raise UserError(work)
            member.shards.remove(shard)
            member.crops = 0
            self.done += crops
            self.bar.encoders = max(1, sum(member.started for member in self.members))
            self.bar.add(work)
            self._show()

    def _show(self) -> None:
        """Move the bar; crops of a lost actor were counted before their time, so it may stand still for a while."""
        counted = self.done + sum(member.crops for member in self.members)
        if counted > self.bar.n:
            self.bar.update(counted - self.bar.n)

    def _lost(self, member: _Member, error: Exception) -> None:
        """Give back the shards of a dead actor.

        Raises:
            UserError: It was one too many.
        """
        import ray

        with suppress(Exception):  # one that cannot be reached may live on
            ray.kill(member.actor)
        self.members.remove(member)
        self.calls = {call: meant for call, meant in self.calls.items() if meant[0] is not member}
        self.waiting.extendleft(reversed(member.shards))
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not member.started:
            self.losses[None] += 1
            if self.losses[None] == MOST_LOSSES:
                raise UserError(f"{MOST_LOSSES} Ray workers in turn died as they started, perhaps for want of memory "
                                f"(the last: {reason})")
            tqdm.write("a Ray worker was lost as it started; another is tried")
            return
        for shard in member.shards:
            self.losses[shard] += 1
        tqdm.write(f"a Ray worker was lost; {len(member.shards)} shard(s) of it go to others")
        for shard in member.shards:
            if self.losses[shard] == MOST_LOSSES:
                writer = self.job.writer
                ids = writer.image_ids(shard)
                raise UserError(
                    f"{writer.path}: {shard_name(shard, writer.total_shards)} (images {ids[0]} to {ids[-1]}) has "
                    f"cost {MOST_LOSSES} Ray workers their lives; they may want memory, or an image may be at fault")
