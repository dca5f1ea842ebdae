"""Every offline stage, killed with SIGKILL again and again: what is visible is always whole, and it ends with the same
bytes as a run that nothing stopped.

``OVD_CRASH_KILLS`` and ``OVD_CRASH_SEED`` in the environment: more kills of every stage, at other moments.
"""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from crashing import contents, launcher
from small_stages import World, commands

SPARED = ("scenes", "shapes-pool", "rpn", "embed-ground-truth", "embed-val", "export")
KILLED = [name for name in commands(Path()) if name not in SPARED]
STEPPED = [name for name in KILLED if name not in ("embed-globals", "embed-int8", "export-oadp")]  # much as others
KILLS = int(os.environ.get("OVD_CRASH_KILLS", 4))  # of each stage
SEED = int(os.environ.get("OVD_CRASH_SEED", 0))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's processes")]

assert KILLS * len(KILLED) >= 50


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashes")
    world = folder / "world"
    world.mkdir()
    with launcher(folder / "logs") as running:
        yield World(world, running)


@pytest.mark.parametrize("name", KILLED)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(crashes, name):
    stage, rng = crashes.begin(name), random.Random(f"{SEED} {name}")
    story, hits = f"{name}, seed {SEED}, killed after", 0
    for _ in range(20 * KILLS):
        if hits == KILLS:
            break
        if crashes.finished.keys() == contents(crashes.world).keys():
            crashes.clear(stage)
        moment = rng.uniform(0, stage.seconds)
        run = crashes.launcher.start(stage.argv)
        run.ends_within(moment)
        run.send()
        ended = run.wait()
        hits += ended.killed
        story += f" {moment:.3f}{'' if ended.killed else ' (was done)'}"
        if ended.killed:
            crashes.check_what_is_visible(stage, story)
        else:
            crashes.check_the_end(ended, stage, story)
    assert hits == KILLS, f"{story}: hit alive only {hits} times"
    crashes.check_the_end(crashes.launcher.finish(stage.argv), stage, story)


@pytest.mark.parametrize("name", STEPPED)
def test_killed_before_each_step_of_its_writing_it_ends_with_the_same_bytes(crashes, name):
    """The first run dies before its first change of a file or folder, the next before its second, and so on.

    After the first few with growing gaps, for stages that begin anew each time.
    """
    stage, step = crashes.begin(name), 0
    while True:
        step += 1 + step // 6
        ended = crashes.launcher.finish(stage.argv, signal_at=[step, str(crashes.world), signal.SIGKILL])
        story = f"{name}, killed before step {step}"
        if not ended.killed:
            break
        crashes.check_what_is_visible(stage, story)
    assert step > 4, f"{name}: ends after {step} steps"
    crashes.check_the_end(ended, stage, story)


def test_a_fresh_process_is_killed_as_it_starts_and_with_its_pool_at_work(crashes):
    stage = crashes.begin("embed-regions")
    argv = [*stage.argv, "--processes", 2]  # the last one counts
    moment = random.Random(SEED).uniform(0, 4)
    run = crashes.launcher.start(argv, fresh=True)
    run.ends_within(moment)
    run.send()
    run.wait()
    crashes.check_what_is_visible(stage, f"killed {moment:.3f} s after its start")
    run = crashes.launcher.start(argv, fresh=True)
    while not list(crashes.world.glob("data/regions/train/shard-*.h5")) and not run.ends_within(0.01):
        pass
    run.send()
    assert run.wait().killed
    crashes.check_what_is_visible(stage, "killed after its first shard")
    crashes.check_the_end(crashes.launcher.finish(stage.argv), stage, "killed twice")


def test_workers_end_when_only_their_parent_is_killed(crashes):
    stage, run = crashes.stop_at_work("shapes-pool", crashes.pool_at_work)
    run.send(alone=True)
    run.send(signal.SIGCONT)
    assert run.wait().killed, "and all others are gone, or it would not have returned"
    crashes.check_what_is_visible(stage, "parent killed")
    crashes.check_the_end(crashes.launcher.finish(stage.argv), stage, "parent killed")
