"""Full disks, folders that cannot be written to, two writers, damaged shards, killed workers, signals: each is one
clear line, nothing is damaged or left behind, and the same command goes on once the fault is gone."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from crashing import UNABLE, Ended, contents, hidden, launcher
from small_stages import SHARD, TRAIN, World, commands

from ovd.stores.shards import RegionStore

WITHOUT = ("learn-prompts", "embed-globals", "embed-int8", "export-oadp", "import", "clip-on-crops")
NEEDED = ("scenes", "rpn", "embed-ground-truth", "embed-val")
STAGES = [name for name in commands(Path()) if name not in (*WITHOUT, *NEEDED)]
STORES = ("proposals", "proposals-from-annotations", "embed-regions", "merge")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's processes")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "world").mkdir()
    with launcher(folder / "logs") as running:
        yield World(folder / "world", running, WITHOUT)


def check_refusal(ended: Ended, *words: str) -> None:
    """Exit status 2, and the last line is one that says all of ``words``; no traceback."""
    assert ended.status == 2, f"status {ended.status}\n{ended.text[-3000:]}"
    assert "Traceback" not in ended.text, ended.text[-3000:]
    bar, error, rest = ended.errors[-1].partition("error: ")  # behind a bar that has not ended its line, at the most
    last = error + rest
    assert "|" in bar or not bar, ended.errors[-1]
    assert last.startswith("error: ") and all(word in last for word in words), f"{last}\nshould say {words}"


@pytest.mark.parametrize("name", STAGES)
def test_a_file_that_cannot_grow(world, name):
    """As on a full disk, in every stage, at its largest file."""
    stage = world.begin(name)
    largest = max(stage.outputs, key=lambda output: (world.copy / output).stat().st_size)
    ended = world.launcher.finish(stage.argv, file_bytes=(world.copy / largest).stat().st_size - 1)
    check_refusal(ended, "cannot write, the file size limit is reached", str(world.world))
    world.check_what_is_visible(stage, "limited")
    assert not hidden(world.world)
    world.check_the_end(world.launcher.finish(stage.argv), stage, "after a limit")


@pytest.mark.parametrize("name", ["proposals", "embed-regions", "merge", "export"])
def test_a_disk_that_fills_up_again_and_again(world, name):
    """A real one, a little larger each time, until all fits; what was done stays."""
    stage = world.begin(name)
    disk = world.world / "disk"
    disk.mkdir()
    outputs = {"proposals": "data/proposals/train", "embed-regions": "data/regions/train", "merge": "data/regions/all",
               "export": "detpro"}[name]
    target, options = disk / "out", ["--subset", "train"] if name == "proposals" else []
    argv = [*stage.argv, *options, "--out", target]
    expected = {Path(file).relative_to(outputs).as_posix(): digest for file, digest in world.finished.items()
                if file.startswith(outputs + "/")}
    size, refusals = 12 << 10, 0
    while True:
        size += size // 2
        ended = world.launcher.finish(argv, disk={"at": str(disk), "bytes": size})
        if ended.status == UNABLE:
            pytest.skip(ended.text.strip())
        if ended.status == 0:
            break
        refusals += 1
        check_refusal(ended, "cannot write, the disk is full", str(disk))
        assert contents(target).items() <= expected.items(), f"{size} bytes"
        assert not hidden(disk), f"{size} bytes"
    assert refusals > 0 and contents(target) == expected and not hidden(disk)


@pytest.mark.parametrize("name", STAGES)
def test_folders_that_cannot_be_written_to(world, name):
    stage = world.begin(name)
    before = contents(world.world)
    folders = [world.world, *(path for path in world.world.rglob("*") if path.is_dir())]
    try:
        for folder in folders:
            folder.chmod(0o555)
        ended = world.launcher.finish(stage.argv, obeys_permissions=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    check_refusal(ended, "cannot write (Permission denied); make the folder writable", str(world.world))
    assert contents(world.world) == before and not hidden(world.world)
    world.check_the_end(world.launcher.finish(stage.argv), stage, "after permissions")


@pytest.mark.parametrize("name", ["proposals-from-annotations", "embed-regions", "class-embeddings", "merge", "export"])
def test_an_output_below_a_file(world, name):
    stage = world.begin(name)
    file = world.world / "file"
    file.write_text("the user's")
    check_refusal(world.launcher.finish([*stage.argv, "--out", file / "below"]), str(file))
    assert file.read_text() == "the user's" and not hidden(world.world)


@pytest.mark.parametrize("name", STORES)
def test_a_second_writer_of_a_store_is_refused_and_the_first_ends_well(world, name):
    stage, first = world.stop_at_work(name, lambda run: any(says_by_whom(lock) for lock in world.world.rglob(".lock*")))
    folder = str(next(world.world.rglob(".lock*")).parent)
    try:
        before = contents(world.world)
        for more in ((), ("--overwrite",)):
            check_refusal(world.launcher.finish([*stage.argv, *more]), folder, "another run writes this store",
                          f"process {first.pid} ")
            assert contents(world.world) == before
    finally:
        first.send(signal.SIGCONT)
    world.check_the_end(first.wait(), stage, "with a second writer")


def says_by_whom(lock: Path) -> bool:
    """Whether the lock is held: before that, its file is empty."""
    try:
        return lock.stat().st_size > 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("name", [name for name in STAGES if name not in STORES])
def test_two_runs_at_once(world, name):
    """Of something that is no store: both end well."""
    stage = world.begin(name)
    for run in [world.launcher.start(stage.argv), world.launcher.start(stage.argv)]:
        ended = run.wait()
        assert ended.status == 0, ended.text[-3000:]
    world.check_the_end(ended, stage, "two at once")


@pytest.mark.parametrize("name", ["proposals-from-annotations", "embed-regions"])
def test_damaged_shards_are_found_and_only_they_are_made_again(world, name):
    stage = world.begin(name)
    world.launcher.succeed(stage.argv)
    shards = sorted(world.world / file for file in stage.outputs if file.endswith(".h5"))
    store, times = shards[0].parent, {shard: shard.stat().st_mtime_ns for shard in shards}
    total = -(-TRAIN // SHARD)
    cut, flipped = (store / f"shard-{index:05d}-of-{total:05d}.h5" for index in (1, 3))
    cut.write_bytes(cut.read_bytes()[:-300])
    data = bytearray(flipped.read_bytes())
    place = data.index(RegionStore(world.copy / store.relative_to(world.world))[image_of(flipped)].boxes.tobytes())
    data[place + 5] ^= 4
    flipped.write_bytes(data)
    ended = world.launcher.finish(["store", "verify", store])
    assert ended.status == 2 and cut.name in ended.text and flipped.name in ended.text
    assert "Traceback" not in ended.text and shards[2].name not in ended.text
    world.launcher.finish(["store", "verify", "--delete-damaged", store])
    assert not cut.exists() and not flipped.exists()
    world.check_the_end(world.launcher.finish(stage.argv), stage, "damaged")
    assert {shard for shard in shards if shard.stat().st_mtime_ns != times[shard]} == {cut, flipped}


def image_of(shard: Path) -> int:
    """The first image of a shard."""
    from ovd.stores.layout import Shard

    return int(Shard(shard).image_id[0])


@pytest.mark.parametrize("finished", [True, False])
def test_a_cut_shard_is_made_again_without_being_asked(world, finished):
    stage = world.begin("embed-regions")
    world.launcher.succeed(stage.argv)
    store = world.world / "data" / "regions" / "train"
    cut = sorted(store.glob("shard-*.h5"))[4]
    cut.write_bytes(cut.read_bytes()[:2000])
    if not finished:
        (store / "manifest.json").unlink()
    times = {shard: shard.stat().st_mtime_ns for shard in store.glob("shard-*.h5")}
    world.check_the_end(world.launcher.finish(stage.argv), stage, "cut")
    assert [shard for shard in times if shard.stat().st_mtime_ns != times[shard]] == [cut]


def test_a_killed_worker_of_a_pool_is_one_clear_error(world):
    stage, run = world.stop_at_work("shapes-pool", world.pool_at_work)
    os.kill(run.others()[0], signal.SIGKILL)
    run.send(signal.SIGCONT)
    check_refusal(run.wait(), "a worker process died", "run the same command again")
    world.check_what_is_visible(stage, "a worker killed")
    world.check_the_end(world.launcher.finish(stage.argv), stage, "a worker killed")


@pytest.mark.parametrize(("name", "number"), [
    ("build-zsl", signal.SIGTERM), ("class-embeddings", signal.SIGINT), ("embed-regions", signal.SIGTERM),
    ("embed-regions", signal.SIGHUP), ("export", signal.SIGTERM)])
def test_a_run_that_is_told_to_stop_leaves_no_temporary_files(world, name, number):
    stage, rng = world.begin(name), random.Random(f"{name} {number}")
    for step in sorted(rng.sample(range(3, 12), 3)):
        ended = world.launcher.finish(stage.argv, signal_at=[step, str(world.world), number])
        if ended.status != 0:  # that was its last step
            assert ended.status == 128 + number, f"step {step}: {ended.text[-3000:]}"
            assert ended.errors[-1].startswith("interrupted: run the same command again")
        assert "Traceback" not in ended.text, f"step {step}: {ended.text[-3000:]}"
        assert not hidden(world.world), f"step {step}"
        world.check_what_is_visible(stage, f"step {step}")
    world.check_the_end(world.launcher.finish(stage.argv), stage, "told to stop")


@pytest.mark.parametrize("alone", [True, False], ids=["parent", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_pool_that_is_told_to_stop_leaves_no_temporary_files(world, number, alone):
    stage, run = world.stop_at_work("shapes-pool", world.pool_at_work)
    run.send(number, alone)
    run.send(signal.SIGCONT)
    ended = run.wait()
    assert ended.status == 128 + number, ended.text[-3000:]
    assert "Traceback" not in ended.text, ended.text[-3000:]
    assert not hidden(world.world)
    world.check_what_is_visible(stage, "pool told to stop")
    world.check_the_end(world.launcher.finish(stage.argv), stage, "pool told to stop")
