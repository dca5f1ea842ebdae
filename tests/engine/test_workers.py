"""Tasks over processes: all results in order, errors and deaths reported, nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tqdm import tqdm

from ovd.engine.lookahead import lookahead
from ovd.engine.workers import run_tasks
from ovd.errors import UserError


def silent_bar():
    return tqdm(disable=True)


def start(offset):
    def work(task, done):
        if task == "fail":
            raise UserError("task failed")
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        done(1)
        return task + offset
    return work


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_tasks(processes):
    assert run_tasks(start, (100,), list(range(7)), processes, silent_bar()) == list(range(100, 107))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_bar_counts_units_and_results_are_told_as_they_come(processes, capsys):
    told = []
    with tqdm(total=6, initial=2) as bar:
        run_tasks(start, (100,), list(range(4)), processes, bar, told.append)
        assert bar.n == 6
    assert sorted(told) == [100, 101, 102, 103]


def test_an_error_in_a_worker_is_raised_here():
    with pytest.raises(UserError, match="task failed"):
        run_tasks(start, (0,), [1, "fail", 2], 2, silent_bar())


def test_a_worker_that_dies_is_reported():
    with pytest.raises(UserError, match="a worker process died"):
        run_tasks(start, (0,), [1, "die", 2], 2, silent_bar())


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text("""
import os, sys, time
from tqdm import tqdm
from ovd.engine.workers import run_tasks
def start():
    def work(task, done):
        open(os.path.join(sys.argv[1], f"{os.getpid()}.pid"), "w").close()
        time.sleep(60)
    return work
if __name__ == "__main__":
    run_tasks(start, (), [1, 2], 2, tqdm(disable=True))
""")
    parent = subprocess.Popen([sys.executable, script, tmp_path])
    deadline = time.monotonic() + 60
    while len(pids := [int(file.stem) for file in tmp_path.glob("*.pid")]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_lookahead_keeps_order_and_does_not_run_far_ahead(threads):
    begun = []

    def function(item):
        begun.append(item)
        return item * 2

    results = lookahead(function, range(50), threads, ahead=4)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 6
    assert list(results) == [2 * i for i in range(1, 50)]


def test_lookahead_raises_where_the_item_is():
    def function(item):
        if item == 2:
            raise UserError("item 2")
        return item

    results = lookahead(function, range(5), 2, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(UserError, match="item 2"):
        next(results)
