"""Runs of the real command line that may be killed at any moment, many of them in little time.

Importing torch and mmdet takes seconds, so a launcher process does that once and forks a child for every run. A child
is a process group of its own, runs ``pipelines.cli.main()`` as the installed ``ovd`` command does, and has nothing of
the project replaced. The launcher inherits the processes that a killed run leaves behind, so it knows when
the last of them is gone. Linux only.
"""

import atexit
import ctypes
import gc
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds that a run may take before it counts as hanging
UNABLE = 77  # exit status of a child that could not set up its conditions

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_OVERRIDE = 1, 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_DROP_FROM_BOUND = 24  # PR_CAPBSET_DROP
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_STEPS = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0, "os.link": 1}


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status, or minus the signal that killed it, and all that it printed."""

    status: int
    seconds: float
    text: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL hit it alive."""
        return self.status == -signal.SIGKILL

    @property
    def errors(self) -> list[str]:
        """The lines that it printed, without what progress bars painted over."""
        return [line.rpartition("\r")[2] for line in self.text.splitlines() if line.rpartition("\r")[2].strip()]


class Run:
    """A run that was started; it must be waited for."""

    def __init__(self, launcher: "Launcher", pid: int, log: Path) -> None:
        self.pid = pid
        self._launcher, self._log = launcher, log
        self._exit = os.pidfd_open(pid)

    def ends_within(self, seconds: float) -> bool:
        """Wait at most ``seconds``; whether the run ended."""
        return bool(select.select([self._exit], [], [], seconds)[0])

    def send(self, signal_number: int = signal.SIGKILL, alone: bool = False) -> None:
        """Send a signal to all processes of the run, or to its first one ``alone``. It may have ended: that is safe."""
        (os.kill if alone else os.killpg)(self.pid, signal_number)

    def others(self) -> list[int]:
        """The processes of the run's pools that live now."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                try:
                    group = (entry / "stat").read_text().rpartition(")")[2].split()[2]
                    if int(group) == self.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:  # it has just ended
                    continue
        return sorted(found)

    def wait(self, timeout: float = PATIENCE) -> Ended:
        """Wait until all processes of the run are gone.

        Raises:
            AssertionError: It takes longer than ``timeout`` seconds; what is left is killed.
        """
        try:
            reply = self._launcher.ask({"wait": self.pid}, timeout)
        except TimeoutError:
            self.send()
            self._launcher.reply(PATIENCE)
            raise AssertionError(f"the run hangs, or left processes behind:\n{self._log.read_text()[-3000:]}") from None
        finally:
            os.close(self._exit)
        return Ended(reply["status"], reply["seconds"], self._log.read_text(errors="replace"))


class Launcher:
    """The process that forks runs; one at a time is asked for, several may be under way."""

    def __init__(self, folder: Path) -> None:
        """Args: ``folder`` is for the logs of the runs."""
        self._logs, self._count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with open(folder / "launcher.txt", "wb") as log:
            self._process = subprocess.Popen([sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, stderr=log,
                                             env={**os.environ, **single, "PYTHONPATH": str(ROOT)})
        self.reply(300)

    def start(self, argv: Sequence[object], **conditions: object) -> Run:
        """Begin ``ovd *argv``.

        Args:
            conditions: What is odd about its world, see :func:`_arrange`.
        """
        self._count += 1
        log = self._logs / f"run-{self._count:04d}.txt"
        log.touch()  # it may be killed before it opens it
        request = {"argv": [str(word) for word in argv], "log": str(log), **conditions}
        return Run(self, self.ask(request, PATIENCE)["pid"], log)

    def finish(self, argv: Sequence[object], **conditions: object) -> Ended:
        """Do ``ovd *argv`` to its end."""
        return self.start(argv, **conditions).wait()

    def succeed(self, argv: Sequence[object], **conditions: object) -> Ended:
        """As :meth:`finish`, but anything else than success is an AssertionError with what it printed."""
        ended = self.finish(argv, **conditions)
        assert ended.status == 0, f"ovd {' '.join(map(str, argv))}: status {ended.status}\n{ended.text[-3000:]}"
        return ended

    def ask(self, request: dict, timeout: float) -> dict:
        """Send a request; the reply, or TimeoutError after ``timeout`` seconds (:meth:`reply` then waits on)."""
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self.reply(timeout)

    def reply(self, timeout: float) -> dict:
        """Wait for the reply to the last request."""
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise TimeoutError
        line = self._process.stdout.readline()
        assert line, f"the launcher died:\n{(self._logs / 'launcher.txt').read_text()[-3000:]}"
        return json.loads(line)

    def close(self) -> None:
        """End the launcher."""
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@contextmanager
def launcher(folder: Path) -> Iterator[Launcher]:
    """A launcher that lives as long as the block."""
    running = Launcher(folder)
    try:
        yield running
    finally:
        running.close()


def contents(folder: Path) -> dict[str, str]:
    """Relative name -> digest of all files below ``folder`` that are not hidden.

    Of a manifest all counts but the time that its stage took, and the commit, which may change while tests run.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or file.is_dir():
            continue
        data = file.read_bytes()
        if file.name.endswith("manifest.json"):
            with suppress(ValueError):  # a torn one is told by its digest
                manifest = json.loads(data)
                del manifest["wall_seconds"], manifest["code_version"]
                data = json.dumps(manifest, sort_keys=True).encode()
        found[str(name)] = hashlib.sha256(data).hexdigest()
    return found


def hidden(folder: Path) -> list[str]:
    """Temporary files and locks below ``folder``."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


def _serve() -> None:
    """The launcher's side: fork runs and wait for them, as the lines on standard input ask for."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    _import_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
    print(json.dumps({"ready": True}), file=replies)
    started = {}
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            pid = request["wait"]
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            seconds = time.monotonic() - started.pop(pid)
            try:
                while True:
                    os.waitpid(-pid, 0)  # orphans of the group, until there are none
            except ChildProcessError:
                print(json.dumps({"status": status, "seconds": seconds}), file=replies)
            continue
        pid = os.fork()
        if not pid:
            _become_run(request, libc)  # does not return
        os.setpgid(pid, pid)
        started[pid] = time.monotonic()
        print(json.dumps({"pid": pid}), file=replies)


def _import_everything() -> None:
    """What the stages would import, most of it through the modules that a config names."""
    import importlib

    from ovd.engine.launch import quiet

    quiet()
    import ovd.models  # noqa: F401
    from ovd.engine.config import load_config
    from pipelines.cli import STAGES

    for module, _ in STAGES.values():
        importlib.import_module(f"pipelines.{module}")
    load_config("configs/shapes/vild.py")
    for module in ("ovd.clip.regions", "ovd.clip.shard_job", "ovd.clip.text", "ovd.clip.towers", "ovd.engine.runner",
                   "ovd.evaluation.metric", "ovd.models.crop_detector", "pipelines.proposals.extraction",
                   "pipelines.prompt_learning.learning"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or the end of every child would visit, and so copy, all objects of these modules


def _become_run(request: dict, libc: ctypes.CDLL) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["log"], os.O_WRONLY | os.O_CREAT)):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    try:
        _arrange(request, libc)
    except OSError as error:
        print(f"not possible here: {error}")
        os._exit(UNABLE)
    if request.get("fresh"):
        os.execv(sys.executable, [sys.executable, "-m", "pipelines.cli", *request["argv"]])
    from pipelines.cli import main

    sys.argv = ["ovd", *request["argv"]]
    try:
        status = main()
    except SystemExit as leave:
        status = leave.code
    except BaseException:
        traceback.print_exc()
        status = 1
    # what sys.exit() does, but for freeing the modules one by one, which takes as long as many a run
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _arrange(request: dict, libc: ctypes.CDLL) -> None:
    """Make the world that a run is to have. ``fresh``: a Python of its own, which imports for itself.

    ``file_bytes``: no file may grow beyond (RLIMIT_FSIZE). ``disk``: ``{"at": folder, "bytes": size}`` puts a file
    system of that size, with what the folder holds, in its place; afterwards the folder holds what is on it.
    ``obeys_permissions``: root may not write where permission bits say no. ``signal_at``: ``[number, folder, signal]``
    sends the signal to the whole run just before the given one of its steps below the folder: a file opened for
    writing, the first byte written to it, a file renamed or removed, a folder made or removed.
    """
    if "disk" in request:
        _use_small_disk(Path(request["disk"]["at"]), request["disk"]["bytes"], libc)
    if request.get("obeys_permissions") and os.geteuid() == 0:
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        for capability in _OVERRIDE:  # also for the processes of a pool
            _check(libc.prctl(_DROP_FROM_BOUND, capability, 0, 0, 0))
        _check(libc.capget(header, data))
        for place in (0, 1):  # effective and permitted
            data[place] &= ~sum(1 << capability for capability in _OVERRIDE)
        _check(libc.capset(header, data))
    if "file_bytes" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    if "signal_at" in request:
        _signal_at(*request["signal_at"])


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _use_small_disk(folder: Path, size: int, libc: ctypes.CDLL) -> None:
    """Go on in a child that sees a small file system at ``folder``; this process copies what is on it at the end."""
    uid, gid = os.getuid(), os.getgid()
    try:
        _check(libc.unshare(_NEW_USER | _NEW_MOUNTS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        _check(libc.unshare(_NEW_MOUNTS))
        _check(libc.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None))  # MS_PRIVATE | MS_REC
    outside = os.open(folder, os.O_RDONLY)
    _check(libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={size}".encode()))
    _copy(Path(f"/proc/self/fd/{outside}"), folder)
    run = os.fork()
    if not run:
        os.close(outside)
        return
    status = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    old = Path(f"/proc/self/fd/{outside}")
    for path in old.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _copy(folder, old)
    os._exit(status if status >= 0 else 128 - status)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(f"{source}/.", f"{target}/.", dirs_exist_ok=True)


def _signal_at(number: int, folder: str, signal_number: int) -> None:
    taken, opening = 0, False

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken == number:
            os.killpg(0, signal_number)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal opening
        if event == "open" and not opening:
            path = arguments[0] if arguments[2] & _WRITING else None
        elif event in _STEPS:
            path = arguments[_STEPS[event]]
        else:
            return
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(folder):
            return
        step()
        if event == "open":
            if taken == number - 1 and signal_number == signal.SIGKILL:  # it dies with the file opened
                opening = True
                os.open(path, arguments[2], 0o644)
            step()

    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve()
