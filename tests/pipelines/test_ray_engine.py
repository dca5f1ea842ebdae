"""Regions embedded on a Ray cluster: the bytes of one process, whatever becomes of the workers."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from test_region_embeddings import CLIP, CONFIG, shard_bytes, write_proposals
from tiny_world import write_world

from ovd.clip.towers import save_described
from pipelines.region_embeddings import embed_regions

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

VISION = {"image_size": 32, "layers": 3, "width": 128, "head_width": 32, "patch_size": 4}  # a shard takes a while


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset of 48 images in 16 shards; returns its folder, with ``config.py`` in it."""
    root = write_world(tmp_path_factory.mktemp("world") / "data", ["red box", "green box"], ["blue box"], train=48)
    write_proposals(root, "train")
    clip = {**CLIP, "vision_cfg": VISION}
    torch.manual_seed(0)
    save_described(root / "clip.safetensors", open_clip.CLIP(**clip), clip, None, {})
    (root / "config.py").write_text(CONFIG.format(root=str(root), clip=str(root / "clip.safetensors")))
    return root


@pytest.fixture(scope="module")
def expected(world):
    """The shards that one process makes."""
    return shard_bytes(embed_regions(world / "config.py", out=world / "alone", processes=1, device="cpu"))


@pytest.fixture
def environment():
    """For a command that uses Ray: what that leaves lies in a folder of the test. Its sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield {**os.environ, "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
               "RAY_worker_niceness": "0"}


@contextmanager
def running(command, **options):
    """A process of its own group, of which nothing is left at the end."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def embed(world, out, *options):
    return [sys.executable, "-m", "pipelines.cli", "embed-regions", world / "config.py", "--out", out, "--engine",
            "ray", *options]


def descendants(pid):
    """process id -> command line of all that ``pid`` has started, by way of others too."""
    parents, commands = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            own = int(status.parent.name)
            parents[own] = int(status.read_text().rpartition(")")[2].split()[1])
            commands[own] = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    found, new = {}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= {child: commands.get(child, "") for child in new}
    return found


def workers(pid):
    return [child for child, command in descendants(pid).items() if command.startswith("ray::RegionWorker")]


def wait_for(what, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def test_shards_of_killed_workers_are_made_by_others(world, expected, environment, tmp_path, root):
    out = tmp_path / "store"
    with running(embed(world, out, "--processes", "2"), cwd=root, env=environment) as process:
        wait_for(lambda: list(out.glob("shard-*.h5")), process)
        for worker in workers(process.pid):  # one of them may still be starting
            os.kill(worker, signal.SIGKILL)
        of_ray = descendants(process.pid)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert "a Ray worker was lost" in said
    assert shard_bytes(out) == expected
    assert sorted(file.name for file in out.iterdir() if file.suffix != ".h5") == ["image_ids.npy", "manifest.json",
                                                                                "plan.json"]
    wait_until_gone(of_ray)


def wait_until_gone(processes):
    deadline = time.monotonic() + 20
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_cluster_is_joined_and_left_and_errors_of_its_workers_arrive(world, expected, environment, tmp_path, root):
    out = tmp_path / "store"
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", "0", "--num-cpus", "2",
            "--include-dashboard", "false", "--disable-usage-stats", "--object-store-memory", 100 << 20, "--block"]
    with running(head, cwd=tmp_path, env=environment) as cluster:
        current = Path(environment["RAY_TMPDIR"], "ray", "ray_current_cluster")
        address = wait_for(lambda: current.exists() and current.read_text(), cluster)
        command = [str(part) for part in embed(world, out, "--address", address)]
        picture = sorted((world / "train").iterdir())[20]
        whole = picture.read_bytes()
        Image.open(picture).resize((64, 60)).save(picture)
        try:
            failed = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
        finally:
            picture.write_bytes(whole)
        assert failed.returncode == 2
        assert "64 x 60" in next(line for line in failed.stderr.splitlines() if line.startswith("error:"))
        assert "Traceback" not in failed.stderr
        assert not (out / "manifest.json").exists()
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert shard_bytes(out) == expected
        assert cluster.poll() is None
        of_ray = descendants(cluster.pid)
    wait_until_gone(of_ray)


DEADLY = """
import os
from dataclasses import dataclass
from ovd.clip.levels import Objects

@dataclass(frozen=True)
class Deadly(Objects):
    def choose(self, image_id, file):
        if image_id == 22:  # of the third shard
            os._exit(1)
        return super().choose(image_id, file)
"""
RUN = """
import sys
from dataclasses import replace
from pathlib import Path
import ovd
from deadly import Deadly
from ovd.clip.crops import CropRecipe
from ovd.clip.shard_job import ImageFile, RegionJob
from ovd.errors import UserError
from ovd.stores.shards import RegionStore
from pipelines.region_engines.bar import CropsBar
from pipelines.region_engines.ray_engine import embed_with_ray, ray_cluster

world, out = Path(sys.argv[1]), Path(sys.argv[2])
proposals = RegionStore(world / "proposals" / "train")
ids = proposals.image_ids.tolist()
images = {i: ImageFile(world / "train" / f"{i:06d}.png", 64, 64) for i in ids}
writer = RegionStore.create(out, "regions", ids, 3, 16)
job = RegionJob(writer, images, Deadly(proposals, CropRecipe()),
                {"pretrained": str(world / "clip.safetensors"), "device": "cpu"})
try:
    with ray_cluster(None, 1, "cpu"), CropsBar(disable=True) as bar:
        embed_with_ray(job, list(range(6)), bar, processes=1)
except UserError as error:
    print("error:", error)
    print("missing:", writer.missing())
"""


def test_a_shard_that_costs_worker_after_worker_stops_the_run_by_name(world, environment, tmp_path, root):
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "run.py").write_text(RUN)
    done = subprocess.run([sys.executable, tmp_path / "run.py", world, tmp_path / "store"], capture_output=True,
                          env={**environment, "PYTHONPATH": str(root)}, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "shard-00002-of-00016.h5 (images 19 to 25) has cost 3 Ray workers their lives" in done.stdout
    assert "missing: [2, 3, 4, 5," in done.stdout
