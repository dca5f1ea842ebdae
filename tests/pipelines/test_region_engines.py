"""Shards spread over ranks and over jobs: the bytes of one process, and a finished store at the end."""

import os
import subprocess
import sys

import open_clip
import pytest
import torch
from test_region_embeddings import CLIP, CONFIG, shard_bytes, write_proposals
from tiny_world import write_world

from ovd.clip.towers import load_clip, save_described
from ovd.errors import UserError
from ovd.stores.shards import RegionStore
from pipelines.region_embeddings import embed_regions
from pipelines.region_engines import Spread


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset of 20 images in seven shards; returns its folder, with ``config.py`` in it."""
    root = write_world(tmp_path_factory.mktemp("world") / "data", ["red box", "green box"], ["blue box"], train=20)
    write_proposals(root, "train")
    torch.manual_seed(0)
    save_described(root / "clip.safetensors", open_clip.CLIP(**CLIP), CLIP, None, {})
    (root / "config.py").write_text(CONFIG.format(root=str(root), clip=str(root / "clip.safetensors")))
    return root


@pytest.fixture(scope="module")
def expected(world):
    """The shards that one process makes."""
    return shard_bytes(embed(world, world / "alone"))


def embed(world, out, **options):
    return embed_regions(world / "config.py", out=out, **{"processes": 1, "device": "cpu", **options})


def launch(root, *command, **environment):
    return subprocess.run([*map(str, command)], cwd=root, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHON": sys.executable, **environment})


@pytest.mark.slow
def test_ranks_of_torchrun_share_the_shards_that_are_missing(root, world, expected, tmp_path):
    out = embed(world, tmp_path / "store", part="1/4")  # two of seven
    done = launch(root, "tools/dist_embed_regions.sh", world / "config.py", 2, "--out", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert shard_bytes(out) == expected
    assert RegionStore(out).manifest.counts["images"] == 20
    assert done.stdout.count("120 regions of 20 images") == 1 and "2 shards were there before" in done.stdout
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_what_a_rank_finds_wrong_is_said_once(root, world, tmp_path):
    arguments = world / "config.py", 2, "--out", tmp_path / "store", "--device", "cpu"
    assert launch(root, "tools/dist_embed_regions.sh", *arguments).returncode == 0
    done = launch(root, "tools/dist_embed_regions.sh", *arguments, "--cfg-options", "regions.top_k=2")
    assert done.returncode == 2 and done.stderr.count("top_k was 6, now 2") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_jobs_of_a_slurm_array_make_the_store_and_the_last_finishes_it(root, world, expected, tmp_path):
    out = tmp_path / "store"
    script = "tools/slurm/embed_regions.sh", world / "config.py", "--out", out, "--device", "cpu", "--processes", "1"
    array = [subprocess.Popen([*map(str, script)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHON": sys.executable, "SLURM_ARRAY_TASK_ID": str(job),
                                   "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_SUBMIT_DIR": str(root)})
             for job in (0, 2)]
    said = [job.communicate(timeout=300) for job in array]
    assert [job.returncode for job in array] == [0, 0], said
    assert "shards are left to other parts" in said[0][0]
    assert not (out / "manifest.json").exists()
    assert sorted(shard_bytes(out)) == [f"shard-0000{shard}-of-00007.h5" for shard in (0, 2, 3, 5, 6)]
    again = launch(root, *script, SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="1", PARTS="3")
    assert again.returncode == 0, again.stderr
    assert "20 images" in again.stdout  # it found all there, and finished
    last = launch(root, *script)
    assert last.returncode == 0 and "is up to date" in last.stdout
    assert shard_bytes(out) == expected


def test_parts_are_every_nth_shard_whatever_is_there(world, expected, tmp_path, capsys):
    out = tmp_path / "store"
    for index in (3, 1):
        embed(world, out, part=f"{index}/3")
        assert "left to other parts" in capsys.readouterr().out
    assert sorted(shard_bytes(out)) == [f"shard-0000{shard}-of-00007.h5" for shard in (0, 2, 3, 5, 6)]
    (out / "shard-00000-of-00007.h5").unlink()  # of the first part
    embed(world, out, part="2/3")
    assert "1 of 7 shards are left" in capsys.readouterr().out
    embed(world, out, part="1/3")
    assert shard_bytes(out) == expected and RegionStore(out).verify() == 120
    embed(world, out, part="2/3")
    assert "up to date" in capsys.readouterr().out


def test_a_store_without_its_manifest_is_finished_by_a_run_of_no_part(world, expected, tmp_path):
    out = embed(world, tmp_path / "store")
    (out / "manifest.json").unlink()
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.h5")}
    embed(world, out)
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.h5")} == times
    assert len(RegionStore(out)) == 20


def test_more_parts_than_shards_leave_some_nothing_to_do(world, tmp_path, capsys):
    embed(world, tmp_path / "store", part="9/9")
    assert "7 of 7 shards are left" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "says"), [
    ({"part": "0/3"}, "1 <= I <= N"), ({"part": "4/3"}, "1 <= I <= N"), ({"part": "2"}, "needs I/N"),
    ({"part": "-1/3"}, "needs I/N"), ({"part": "1/0"}, "1 <= I <= N"),
    ({"part": "1/3", "overwrite": True}, "would remove what other parts"),
    ({"address": "auto"}, "add --engine ray"),
    ({"engine": "ray", "address": "ray://head:10001"}, "Ray Client is not supported"),
    ({"launcher": "pytorch", "processes": 2}, "leave it out"),
    ({"launcher": "pytorch", "engine": "ray"}, "leave out --engine ray"),
])
def test_options_that_do_not_go_together_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        Spread.read(**options)


def test_ray_that_is_not_installed_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed; pip install"):
        Spread.read(engine="ray")


@pytest.mark.parametrize("vision", [
    {"image_size": 64, "layers": 2, "width": 256, "head_width": 64, "patch_size": 16},
    {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
], ids=["transformer", "convolutions"])
def test_the_number_of_threads_does_not_change_embeddings(tmp_path, vision):
    torch.manual_seed(0)
    clip = {**CLIP, "vision_cfg": vision}
    save_described(tmp_path / "clip.safetensors", open_clip.CLIP(**clip), clip, None, {})
    loaded = load_clip(str(tmp_path / "clip.safetensors"))
    pixels = torch.rand(32, 3, 64, 64)
    before = torch.get_num_threads()
    try:
        rows = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            rows.append(loaded.encode_image(pixels))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])
