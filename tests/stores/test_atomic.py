"""Files appear whole or not at all, whatever stops the writer."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from ovd.errors import UserError
from ovd.stores import atomic
from ovd.stores.atomic import atomic_write, check_writable, sweep, write_bytes


def test_the_target_appears_only_after_the_block(tmp_path):
    target = tmp_path / "new" / "a.npy"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.startswith(".") and temporary.suffix == ".npy"
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert [p.name for p in target.parent.iterdir()] == ["a.npy"]


def test_a_replaced_file_keeps_its_old_bytes_when_the_writer_fails(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_interrupt_from_the_keyboard_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_file_mode_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("Unable to write (file write failed: errno = 28, error message = 'No space left on device')"),
    RuntimeError("Can't decrement id ref count (file write failed: time = now, errno = 28, buf = 0)"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
], ids=["enospc", "edquot", "hdf5", "hdf5-close", "safetensors"])
def test_a_full_disk_is_one_line_that_names_the_target(tmp_path, error):
    with pytest.raises(UserError, match=r"shard\.h5: cannot write, the disk is full") as caught, \
            atomic_write(tmp_path / "shard.h5") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        open(tmp_path / "an input that is not there").close()
    with pytest.raises(UserError, match="the user's own"), atomic_write(tmp_path / "a"):
        raise UserError("the user's own")
    assert os.listdir(tmp_path) == []


def test_a_real_write_limit_leaves_nothing(tmp_path):
    code = """if True:
        import resource, sys
        from ovd.errors import UserError
        from ovd.stores.atomic import write_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_bytes(sys.argv[1], b"x" * 1_000_000)
        except UserError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "big.bin"], capture_output=True, text=True)
    assert "big.bin: cannot write, the file size limit is reached" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_real_full_disk_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(UserError, match=r"big\.bin: cannot write, the disk is full"):
            write_bytes(disk / "big.bin", b"x" * 1_000_000)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_found_before_any_work(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):  # a mode would not do: tests may run as root
        raise OSError(code, os.strerror(code), args[0])

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(UserError, match=r"out\.json: cannot write \(.*writable"), atomic_write(tmp_path / "out.json"):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_bytes(tmp_path / "file" / "out.json", b"")


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    code = """if True:
        import sys, time
        from ovd.stores.atomic import atomic_write
        with atomic_write(sys.argv[1]) as temporary:
            print("writing", flush=True)
            time.sleep(60)
    """
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "a.bin"], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        assert sweep(tmp_path) == 0, "its writer lives"
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert len(os.listdir(tmp_path)) == 1 and not (tmp_path / "a.bin").exists()
    with atomic_write(tmp_path / "mine"):  # the first write in a folder sweeps it
        assert not [name for name in os.listdir(tmp_path) if "a.bin" in name]
        assert sweep(tmp_path) == 0, "its own file is being written"
    assert os.listdir(tmp_path) == ["mine"]


def test_a_leftover_of_a_process_that_had_our_number_is_removed(tmp_path):
    """As in a container that starts again: the same host name and process numbers, another life."""
    (tmp_path / f"{atomic.TEMPORARY}{atomic.host_name()}-{os.getpid()}-123456-a.bin").write_bytes(b"half")
    with atomic_write(tmp_path / "a.bin") as temporary:
        assert os.listdir(tmp_path) == [temporary.name]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_path_that_cannot_be_written_is_refused_before_anything_is_there(tmp_path):
    (tmp_path / "file").write_text("x")
    check_writable(tmp_path / "new" / "folder" / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match=r"out\.json: cannot write \(Not a directory\)"):
        check_writable(tmp_path / "file" / "out.json")
