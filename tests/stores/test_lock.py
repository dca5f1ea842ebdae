"""The lock of a store: one writer at a time, told who it is, free again however a writer ends."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from ovd.errors import UserError
from ovd.stores.lock import StoreLock
from ovd.stores.manifest import Manifest, current_or_remove
from ovd.stores.shards import RegionStore

HOLD = """if True:
    import sys, time
    from ovd.stores.lock import StoreLock
    part = tuple(map(int, sys.argv[2].split("/"))) if len(sys.argv) > 2 else None
    with StoreLock(sys.argv[1], part):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """A function that starts a process which holds the lock of ``tmp_path``."""
    processes = []

    def start(*part):
        process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path, *part], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_second_writer_is_told_who_the_first_is(tmp_path, hold):
    holder = hold()
    begun = time.monotonic()
    for part in (None, (1, 2)):
        with pytest.raises(UserError, match=rf"another run writes this store \(process {holder.pid} on \w+, since \d") \
                as refusal:
            StoreLock(tmp_path, part).acquire()
        assert str(refusal.value).startswith(f"{tmp_path}: ")
    assert time.monotonic() - begun < 10


def test_a_killed_writer_holds_nothing(tmp_path, hold):
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert os.listdir(tmp_path) == [".lock"]
    with StoreLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_bytes())["process"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_the_files_of_a_run_killed_after_its_work_go_when_there_is_nothing_to_do(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "rows").write_bytes(b"rows")
    Manifest("store", "stage").write(tmp_path / "store")
    lock = tmp_path / "store" / ".lock"
    with StoreLock(tmp_path / "store"):
        assert current_or_remove(tmp_path / "store", "stage", {}, {})
        assert lock.exists()  # somebody holds it
    lock.write_bytes(b"")
    assert current_or_remove(tmp_path / "store", "stage", {}, {})
    assert not lock.exists()


def test_parts_go_side_by_side_each_once(tmp_path, hold):
    holder = hold("2/3")
    with StoreLock(tmp_path, (1, 3)), StoreLock(tmp_path, (3, 3)), \
            pytest.raises(UserError, match=rf"another run writes part 2/3 of this store \(process {holder.pid} on"):
        StoreLock(tmp_path, (2, 3)).acquire()
    with pytest.raises(UserError, match=rf"another run writes part 2/3 of this store \(process {holder.pid} on"):
        StoreLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    assert ".lock-part-2-of-3" in os.listdir(tmp_path)
    with StoreLock(tmp_path, (1, 3)):
        pass
    assert os.listdir(tmp_path) == [], "the last part to end clears up after killed ones"


def test_what_a_killed_writer_said_is_not_said_of_parts(tmp_path, hold):
    first = hold()
    first.kill()
    first.wait()
    second = hold("1/2")
    with pytest.raises(UserError, match=rf"part 1/2 .*process {second.pid} "):
        StoreLock(tmp_path).acquire()


def take_turns(folder, rounds, part):
    counter = folder / "counter"
    for _ in range(rounds):
        while True:
            try:
                with StoreLock(folder, part):
                    if part is None:  # not atomic: two at once would lose counts
                        value = int(counter.read_text())
                        time.sleep(0.0005)
                        counter.write_text(str(value + 1))
                break
            except UserError:
                pass


def test_a_lock_file_that_is_removed_lets_nobody_in_twice(tmp_path):
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=take_turns, args=(tmp_path, 150, part)) for part in (None, None, None, (1, 2))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "counter").read_text() == "450"
    assert os.listdir(tmp_path) == ["counter"]


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    with StoreLock(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with StoreLock(tmp_path):
            pass
        assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_written_without(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with StoreLock(tmp_path), StoreLock(tmp_path, (1, 2)):
        assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        StoreLock(tmp_path / "file").acquire()


def test_a_store_that_is_being_written_is_not_begun_anew(tmp_path):
    def create(**options):
        return RegionStore.create(tmp_path / "store", "proposals", range(3), **options)

    with create().exclusive():
        for overwrite in (False, True):
            with pytest.raises(UserError, match=f"another run writes this store .process {os.getpid()} on"), \
                    create(overwrite=overwrite).exclusive():
                pass
        assert (tmp_path / "store/plan.json").exists()
    outdated = create()
    create(overwrite=True, config={"other": True})
    with pytest.raises(UserError, match="another run has just begun this store with another configuration"), \
            outdated.exclusive():
        pass


def test_the_lock_of_a_run_killed_at_its_very_begin_is_no_users_file(tmp_path, hold):
    holder = hold()
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == [".lock"]
    assert current_or_remove(tmp_path, "proposals", {}, {}) is False
    with RegionStore.create(tmp_path, "proposals", range(3)).exclusive((1, 1)):
        pass
    assert sorted(os.listdir(tmp_path)) == ["image_ids.npy", "plan.json"]


def test_who_holds_the_store_alone_removes_what_was_left_on_any_machine(tmp_path):
    writer = RegionStore.create(tmp_path, "proposals", range(3))
    (tmp_path / ".tmp-elsewhere-1-abcdef-shard-00000-of-00001.h5").write_bytes(b"half")
    with writer.exclusive((1, 2)):
        assert sorted(os.listdir(tmp_path))[2].startswith(".tmp-elsewhere"), "the other part may be written there"
    with writer.exclusive():
        assert not list(tmp_path.glob(".tmp-*"))
