"""Run a recipe's stages: as processes, side by side where they do not need each other, each with a log of its own."""

import argparse
import ctypes
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ovd.errors import UserError
from ovd.stores.manifest import fingerprint_json
from pipelines.running.console import Console, duration, last_lines, without_bar
from pipelines.running.journal import Journal, StageRecord, code_digest, stamp
from pipelines.running.recipe_file import Recipe, Stage
from pipelines.running.signals import handled

POLL_SECONDS = 0.2
SAVE_SECONDS = 5.0  # a run that is killed loses so much of its accounting
GRACE_SECONDS = 10.0  # from asking a stage to stop to killing it
TAIL_LINES = 20

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass
class _Running:
    """A stage whose process has been started."""

    stage: Stage
    process: subprocess.Popen
    log: Path
    log_start: int
    record: StageRecord
    earlier: StageRecord | None
    begin: float = field(default_factory=time.time)


def run_recipe(recipe: Recipe, overwrite: bool = False, console: Console | None = None) -> bool:
    """Bring every stage of a recipe up to date; False if one failed.

    A stage is not started when it was done with the same command, code and configuration, its outputs are as it left
    them, and so are those of the stages before it. Of the stages that are started, those with manifests decide by
    themselves what is left to do. The journal in the work directory is kept current throughout.

    Args:
        recipe: what to run.
        overwrite: forget what was done, and pass ``--overwrite`` to the stages that know it.
        console: where to report.

    Raises:
        UserError: before anything is started, when a command's arguments are wrong or the work directory is taken.
        KeyboardInterrupt: after stopping the stages, when this process is told to stop.
    """
    execution = _Execution(recipe, overwrite, console or Console())
    with handled((signal.SIGTERM, signal.SIGHUP, signal.SIGINT), _interrupt):  # all end a run as Ctrl-C does
        return execution.run()


class _Execution:
    """The state of a run: what is done, what runs, what waits."""

    def __init__(self, recipe: Recipe, overwrite: bool, console: Console) -> None:
        self.recipe = recipe
        self.console = console
        self.journal = Journal.open(recipe, forget=overwrite)
        self.code = code_digest(stage.command for stage in recipe.stages)
        self.waiting = list(recipe.stages)
        self.running: list[_Running] = []
        self.done: set[str] = set()
        self.overwrite = overwrite
        self.extra: dict[str, list[str]] | None = None  # per stage, what is added to its command; known when checked
        self.last_save = 0.0

    def run(self) -> bool:
        self._save()
        try:
            while self.waiting or self.running:
                self._start_ready()
                failed = [running for running in self._collect() if not self._finish(running)]
                if failed:
                    self._stop_all()
                    self._explain(failed[0])
                    return False
                self._tick()
            return True
        except BaseException:
            self._stop_all()
            raise
        finally:
            self.console.redraw([])
            self._save()

    def _start_ready(self) -> None:
        for stage in list(self.waiting):
            if not self.done.issuperset(stage.after):
                continue
            key = self._key(stage)
            if self._is_current(stage, key):
                self.waiting.remove(stage)
                self._settle(stage, "current", self.journal.stages[stage.name])
            elif len(self.running) < self.recipe.jobs:
                if self.extra is None:
                    self.extra = _check_commands(self.recipe, self.overwrite)
                self.waiting.remove(stage)
                self.running.append(self._start(stage, key))

    def _key(self, stage: Stage) -> str:
        before = {name: self.journal.stages[name].outputs for name in stage.after}
        return fingerprint_json({"command": stage.command, "code": self.code, "before": before})

    def _is_current(self, stage: Stage, key: str) -> bool:
        record = self.journal.stages.get(stage.name)
        return (record is not None and record.status == "done" and record.key == key
                and record.outputs == {path: stamp(path) for path in stage.outputs} and all(record.outputs.values()))

    def _start(self, stage: Stage, key: str) -> _Running:
        earlier = self.journal.stages.get(stage.name)
        resumed = earlier is not None and earlier.key == key and earlier.status != "done"
        record = StageRecord(key, command=list(stage.command))
        if resumed:
            record.intervals = list(earlier.intervals)
            record.peak_memory_mb = earlier.peak_memory_mb
            record.outputs = earlier.outputs
        else:
            record.outputs = {path: stamp(path) for path in stage.outputs}  # until it is done: what was there before
        log = self._log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*stage.command, *self.extra.get(stage.name, ())]
        with open(log, "ab") as output:
            output.write(f"$ ovd {' '.join(command)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env=_environment(stage.threads), start_new_session=True,
                preexec_fn=_die_with_parent)
            begin_of_output = output.tell()
        running = _Running(stage, process, log, begin_of_output, record, earlier)
        record.intervals.append((running.begin, running.begin))
        self.journal.stages[stage.name] = record
        return running

    def _log(self, stage: Stage) -> Path:
        number = self.recipe.stages.index(stage) + 1
        return self.recipe.work_dir / "logs" / f"{number:02d}-{stage.name}.log"

    def _collect(self) -> list[_Running]:
        """The stages whose process has ended, no longer among the running ones."""
        ended = []
        for running in list(self.running):
            pid, status, usage = os.wait4(running.process.pid, os.WNOHANG)
            if pid == 0:
                continue
            running.process.returncode = os.waitstatus_to_exitcode(status)
            per_mb = 2**20 if sys.platform == "darwin" else 2**10
            running.record.peak_memory_mb = max(running.record.peak_memory_mb, round(usage.ru_maxrss / per_mb, 1))
            self.running.remove(running)
            ended.append(running)
        return ended

    def _finish(self, running: _Running) -> bool:
        """Record the end of a stage; False if it failed or left an output out."""
        stage, record = running.stage, running.record
        self._extend(running)
        outputs = {path: stamp(path) for path in stage.outputs}
        if running.process.returncode != 0 or not all(outputs.values()):
            record.status = "failed"
            return False
        before, record.outputs, record.status = record.outputs, outputs, "done"
        if stage.outputs and outputs == before:  # it found that there was nothing to do
            if running.earlier is not None and running.earlier.status == "done":
                record.intervals, record.peak_memory_mb = running.earlier.intervals, running.earlier.peak_memory_mb
                record.reused = running.earlier.reused
            else:
                record.reused = True
            self._settle(stage, "current", record)
        else:
            self._settle(stage, "done", record)
        self._save()
        return True

    def _settle(self, stage: Stage, status: str, record: StageRecord) -> None:
        self.done.add(stage.name)
        count, width = len(self.recipe.stages), max(len(s.name) for s in self.recipe.stages)
        number = self.recipe.stages.index(stage) + 1
        self.console.line(f"[{number:>{len(str(count))}}/{count}] {stage.name:<{width}}  {status:<7}  "
                          f"{duration(record.seconds):>12}")

    def _extend(self, running: _Running) -> None:
        running.record.intervals[-1] = (running.begin, time.time())

    def _tick(self) -> None:
        if not self.running:
            return
        now = time.time()
        if now - self.last_save > SAVE_SECONDS:
            for running in self.running:
                self._extend(running)
            self._save()
        count, width = len(self.recipe.stages), max(len(s.name) for s in self.recipe.stages)
        lines = []
        for running in self.running:
            number = self.recipe.stages.index(running.stage) + 1
            said = last_lines(running.log, running.log_start)
            lines.append(f"[{number:>{len(str(count))}}/{count}] {running.stage.name:<{width}}  running  "
                         f"{duration(now - running.begin):>12}  {without_bar(said[0]) if said else ''}")
        self.console.redraw(lines)
        time.sleep(POLL_SECONDS)

    def _save(self) -> None:
        self.last_save = time.time()
        order = [stage.name for stage in self.recipe.stages if stage.name in self.journal.stages]
        self.journal.stages = {name: self.journal.stages[name] for name in order}
        self.journal.save(self.recipe.work_dir)

    def _stop_all(self) -> None:
        """End the running stages: ask, wait, kill. Each keeps what it has finished."""
        for ask in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for running in self.running:
                _signal_group(running.process.pid, ask)
            deadline = time.monotonic() + (GRACE_SECONDS if ask == signal.SIGINT else 2.0)
            with suppress(KeyboardInterrupt):  # asked again: the next signal at once
                while self.running and time.monotonic() < deadline:
                    for ended in self._collect():
                        _signal_group(ended.process.pid, signal.SIGKILL)  # workers that outlived it
                        self._extend(ended)
                        ended.record.status = "interrupted"
                    time.sleep(0.05)

    def _explain(self, failed: _Running) -> None:
        code = failed.process.returncode
        missing = [path for path in failed.stage.outputs if not stamp(path)]
        if code == 0:
            reason = f"ended without writing {', '.join(missing)}"
        elif code < 0:
            hint = ", the memory may have run out" if code == -signal.SIGKILL else ""
            reason = f"was killed ({signal.Signals(-code).name}{hint})"
        else:
            reason = f"failed (exit status {code})"
        self.console.line(f"stage {failed.stage.name} {reason} after {duration(failed.record.seconds)}; the end of "
                          f"{failed.log}:")
        for line in last_lines(failed.log, failed.log_start, TAIL_LINES):
            self.console.line(f"  | {line}")


def _check_commands(recipe: Recipe, overwrite: bool) -> dict[str, list[str]]:
    """Check every stage's arguments before any work; returns what ``--overwrite`` adds to which stage's command.

    Happens in a process of its own: it imports all that the stages import, and the memory of this one would count as
    theirs.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        answers = pool.submit(_parse_all, [stage.command for stage in recipe.stages]).result()
    extra = {}
    for stage, (problem, knows_overwrite) in zip(recipe.stages, answers):
        if problem:
            raise UserError(f"{recipe.path}: stage {stage.name}: ovd {stage.command[0]}: {problem}")
        if overwrite and knows_overwrite:
            extra[stage.name] = ["--overwrite"]
    return extra


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse_all(commands: Sequence[Sequence[str]]) -> list[tuple[str, bool]]:
    """Per command: what is wrong with its arguments ("" if nothing), and whether it has ``--overwrite``."""
    from pipelines.cli import STAGES

    answers = []
    for name, *words in commands:
        parser = _Parser(add_help=False)
        importlib.import_module(f"pipelines.{STAGES[name][0]}").add_arguments(parser)
        try:
            answers.append(("", hasattr(parser.parse_args(words), "overwrite")))
        except UserError as error:
            answers.append((str(error), False))
    return answers


def _environment(threads: int) -> dict[str, str]:
    """Environment of a stage: its share of the cores, output as it comes, progress bars that do not flood the log."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1",
            "TQDM_MININTERVAL": "0.5"}


def _die_with_parent() -> None:
    """In a stage's process, before it starts: be interrupted when the runner dies, however it dies (Linux only)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in a shell's background jobs; Python then never sees it
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
