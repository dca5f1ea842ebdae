"""Files that appear whole or not at all: temporary name, flush, fsync, rename."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovd.errors import UserError

TEMPORARY = ".tmp-"  # a name that starts so is a file being written, or left by a process that was killed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ERRNO = re.compile(r"errno(?: =|) (\d+)", re.IGNORECASE)  # libraries in C tell the number only in their text
_SPACE_LEFT = 1 << 20

_swept: set[str] = set()  # folders that this process has looked through for leftovers
_writing: set[str] = set()  # names of its own temporary files


def host_name() -> str:
    """This machine, in letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"


def _is_disk_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if any(int(number) in _FULL for number in _ERRNO.findall(str(error))) or "No space left" in str(error):
        return True
    # torch.save, or h5py, says only that its writer failed
    if isinstance(error, (OSError, RuntimeError)) and getattr(error, "errno", None) is None:
        with suppress(OSError):
            stat = os.statvfs(folder)
            return stat.f_bavail * stat.f_frsize < _SPACE_LEFT
    return False


def _full(path: Path, error: BaseException) -> UserError:
    limit = isinstance(error, OSError) and error.errno == errno.EFBIG
    what = "the file size limit is reached" if limit else "the disk is full"
    return UserError(f"{path}: cannot write, {what}; nothing was left behind, free some space and run again")


def refusal(path: Path, error: OSError) -> UserError:
    """What to tell the user when ``path`` could not be written."""
    if _is_disk_full(error, path.parent):
        return _full(path, error)
    reason = error.strerror or str(error)
    return UserError(f"{path}: cannot write ({reason}); make the folder writable or choose another output path")


def check_writable(path: str | os.PathLike) -> None:
    """Refuse a path at which nothing can be written, before work is spent on what is to be there; makes no folder."""
    path = Path(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    number = errno.ENOTDIR if not folder.is_dir() else 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise refusal(path, OSError(number, os.strerror(number)))


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems refuse to open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a hidden temporary path beside ``path``; on leaving the block it is synced and becomes ``path``.

    The temporary name ends like ``path`` (writers that look at the suffix work) and its folder is made. The file
    exists, empty, when the block starts, so a folder that cannot be written to is found before any work. When the block
    raises, or the process dies, ``path`` stays what it was. What dead processes left in the folder is removed when a
    process first writes there.

    Raises: UserError that names ``path`` when the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{host_name()}-{os.getpid()}-{os.urandom(3).hex()}-{path.name}")
    if str(path.parent) not in _swept:
        _swept.add(str(path.parent))
        sweep(path.parent)
    _writing.add(temporary.name)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except OSError as error:
            raise refusal(path, error) from error
        try:
            yield temporary
        except Exception as error:
            if not isinstance(error, UserError) and _is_disk_full(error, path.parent):
                raise _full(path, error) from error
            raise
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except OSError as error:
            raise refusal(path, error) from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _writing.discard(temporary.name)
    _sync_folder(path.parent)


def write_bytes(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` atomically; errors as :func:`atomic_write`."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def sweep(folder: str | os.PathLike, everything: bool = False) -> int:
    """Remove temporary files in ``folder`` of processes of this machine that are gone; returns how many.

    Args:
        everything: of other machines too, and whatever process has their numbers now: nobody else writes here.
    """
    removed = 0
    for leftover in Path(folder).glob(f"{TEMPORARY}*"):
        host, _, rest = leftover.name.removeprefix(TEMPORARY).partition("-")
        owner = rest.partition("-")[0]
        # in containers that start again, the process that was killed often had our number
        gone = everything or (host == host_name() and owner.isdigit()
                              and (int(owner) == os.getpid() or not _is_alive(int(owner))))
        if gone and leftover.name not in _writing:
            with suppress(OSError):
                leftover.unlink()
                removed += 1
    return removed


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
