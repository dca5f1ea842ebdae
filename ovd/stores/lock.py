"""Who writes a store: an advisory lock, so that two runs do not do the same work or remove each other's files.

The lock is the kernel's (flock) and ends with the process that holds it, however that ends. The files ``.lock*`` are
where it is held and say by whom; a run removes them when it ends, and the next run those of a killed one, also where it
finds nothing to do. Shards are safe without it (each appears whole, of equal bytes whoever writes it), so a file system
that has no locks gets none.
"""

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from ovd.errors import UserError
from ovd.stores.atomic import host_name, refusal

PREFIX = ".lock"  # of the names of all its files

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}
_PATIENCE = 0.2  # seconds, for a run that is just about to remove its lock

_held: set[int] = set()  # descriptors


def _leave_to_parent() -> None:
    """A forked process has the descriptors too, and would keep the lock of a parent that was killed."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


class StoreLock:
    """The right to write the store in ``folder``, or one part of it; ``with StoreLock(folder): ...``.

    Not waited for: UserError that names the folder and who holds it, also in this process.

    Args:
        folder: Of the store; it exists.
        part: ``(i, n)`` for one of n runs that share the store. Runs of other parts are let in, one of the whole
            store, or of the same part, is not.
    """

    def __init__(self, folder: str | os.PathLike, part: tuple[int, int] | None = None) -> None:
        self.folder = Path(folder)
        self.part = part
        self._store: int | None = None
        self._part: int | None = None

    @property
    def is_alone(self) -> bool:
        """Whether no other run can be writing the store: it is held as a whole, where there are locks."""
        return self.part is None and self._store is not None

    @property
    def _part_file(self) -> Path:
        return self.folder / f"{PREFIX}-part-{self.part[0]}-of-{self.part[1]}"

    def acquire(self) -> None:
        """Take the lock; errors as of the class, and UserError for a folder that cannot be written to."""
        try:
            self._store = self._take(self.folder / PREFIX, shared=self.part is not None)
            if self.part is not None:
                self._part = self._take(self._part_file, shared=False)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back; the files go with the last holder."""
        if _is_ours(self._part):
            self._part_file.unlink(missing_ok=True)
            _close(self._part)
        if _is_ours(self._store):
            with suppress(OSError):  # other parts are still being written
                fcntl.flock(self._store, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for leftover in self.folder.glob(f"{PREFIX}-part-*"):  # of killed runs: who holds one, shares the store
                    leftover.unlink(missing_ok=True)
                (self.folder / PREFIX).unlink(missing_ok=True)
            _close(self._store)
        self._part = self._store = None

    def __enter__(self) -> "StoreLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, path: Path, shared: bool) -> int | None:
        """A descriptor that holds the lock of ``path``; None where there are no locks."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise refusal(path, error) from error
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _is_at(descriptor, path):
                    _held.add(descriptor)
                    # a shared lock is told by the parts' files; what a killed run of the whole store said is cleared
                    _write(descriptor, b"" if shared else _this_process())
                    return descriptor
                os.close(descriptor)  # the run before removed this file when it ended
            except OSError as error:
                said = os.pread(descriptor, 4096, 0)
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    path.unlink(missing_ok=True)
                    return None
                if error.errno not in _HELD:
                    raise UserError(f"{path}: cannot lock the store ({error.strerror})") from error
                if time.monotonic() > deadline:
                    raise UserError(self._refusal(path, said)) from None
                time.sleep(0.02)

    def _refusal(self, path: Path, said: bytes) -> str:
        remedy = "wait until it ends, or stop it, and run again"
        if path.name != PREFIX:
            return f"{self.folder}: another run writes part {self.part[0]}/{self.part[1]} of this store " \
                   f"({_shown(said)}); {remedy}"
        if said:
            return f"{self.folder}: another run writes this store ({_shown(said)}); {remedy}"
        for file in sorted(self.folder.glob(f"{PREFIX}-part-*")):
            with suppress(OSError):
                index, total = file.name.removeprefix(f"{PREFIX}-part-").split("-of-")
                return f"{self.folder}: another run writes part {index}/{total} of this store " \
                       f"({_shown(file.read_bytes())}); {remedy}"
        return f"{self.folder}: another run writes this store; {remedy}"


def clear(folder: Path) -> None:
    """Remove the files of a run that was killed after its work; those of a run that holds the lock stay."""
    if any(folder.glob(f"{PREFIX}*")):
        with suppress(UserError), StoreLock(folder):
            pass


def _this_process() -> bytes:
    return json.dumps({"host": host_name(), "process": os.getpid(),
                       "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode()


def _shown(said: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        record = json.loads(said)
        return f"process {record['process']} on {record['host']}, since {record['since']}"
    return "it has not said which"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _write(descriptor: int, text: bytes) -> None:
    with suppress(OSError):  # a full disk is no reason to let nobody in, or not to hold the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def _is_ours(descriptor: int | None) -> bool:
    return descriptor is not None and descriptor in _held


def _close(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)
