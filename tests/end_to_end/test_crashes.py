"""Every offline stage, killed with SIGKILL again and again: what is visible is always whole, and it ends with the same
bytes as a run that nothing stopped.

``OVD_CRASH_KILLS`` and ``OVD_CRASH_SEED`` in the environment: more kills of every stage, at other moments.
"""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from crashing import Ended, Launcher, contents, hidden, launcher
from small_stages import Stage, commands, run_all

from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.stores.shards import RegionStore

KILLED = [name for name in commands(Path()) if name not in ("scenes", "rpn", "embed-ground-truth", "embed-val", "export")]
KILLS = int(os.environ.get("OVD_CRASH_KILLS", 5))  # of each stage
SEED = int(os.environ.get("OVD_CRASH_SEED", 0))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's processes")]

assert KILLS * len(KILLED) >= 50


class Crashes:
    """The stages of one world, and the launcher that runs them."""

    def __init__(self, world: Path, running: Launcher) -> None:
        self.world, self.launcher, self._copy = world, running, world.with_name("copy")
        self.stages = run_all(world, running)
        self.finished = contents(world)
        assert not hidden(world)
        shutil.copytree(world, self._copy)

    def begin(self, name: str) -> Stage:
        """A stage whose outputs are not there, in a world where all else is."""
        shutil.rmtree(self.world)
        shutil.copytree(self._copy, self.world)
        self.clear(self.stages[name])
        return self.stages[name]

    def clear(self, stage: Stage) -> None:
        """Remove what the stage wrote."""
        for name in stage.outputs:
            (self.world / name).unlink(missing_ok=True)
        for name in hidden(self.world):
            (self.world / name).unlink()

    def check_what_is_visible(self, stage: Stage, story: str) -> None:
        """Every file that has its final name has its final bytes; a folder with a manifest is complete."""
        found = contents(self.world)
        wrong = [name for name, digest in found.items() if self.finished.get(name) != digest]
        assert not wrong, f"{story}: not as an uninterrupted run writes them: {wrong}"
        lost = [name for name in self.finished if name not in found and name not in stage.outputs]
        assert not lost, f"{story}: its inputs are gone: {lost}"
        for name in found:
            folder = Path(name).parent
            if Path(name).name == "manifest.json":
                broken = Manifest.read(self.world / folder).broken_file(self.world / folder)
                assert not broken, f"{story}: {name} is there, but {broken}"
            if Path(name).name == "plan.json" and str(folder / "manifest.json") not in found:
                with pytest.raises(UserError, match="unfinished"):
                    RegionStore(self.world / folder)

    def check_the_end(self, ended: Ended, stage: Stage, story: str) -> None:
        """All files are there with the bytes of the uninterrupted run, and no others."""
        assert ended.status == 0, f"{story}: status {ended.status}\n{ended.text[-3000:]}"
        self.check_what_is_visible(stage, story)
        assert contents(self.world).keys() == self.finished.keys(), story
        assert not hidden(self.world), f"{story}: left behind: {hidden(self.world)}"


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashes")
    world = folder / "world"
    world.mkdir()
    with launcher(folder / "logs") as running:
        yield Crashes(world, running)


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


@pytest.mark.parametrize("name", KILLED)
def test_killed_before_each_step_of_its_writing_it_ends_with_the_same_bytes(crashes, name):
    """The first run dies before its first change of a file or folder, the next before its second, and so on.

    After the first dozen with growing gaps, for stages that begin anew each time.
    """
    stage, step = crashes.begin(name), 0
    while True:
        step += 1 + step // 12
        ended = crashes.launcher.finish(stage.argv, kill_at=[step, str(crashes.world)])
        story = f"{name}, killed before step {step}"
        if not ended.killed:
            break
        crashes.check_what_is_visible(stage, story)
    assert step > 4, f"{name}: ends after {step} steps"
    crashes.check_the_end(ended, stage, story)
