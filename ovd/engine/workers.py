"""Independent tasks spread over processes of this machine, with one progress bar; on two cores, two single-threaded
processes do more than one with two threads."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from tqdm import tqdm

from ovd.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_work: Callable[[Any, Callable[[int], None]], Any] | None = None
_done = None
_at_work = False


def run_tasks(start: Callable[..., Callable[[Task, Callable[[int], None]], Result]], arguments: tuple,
              tasks: Sequence[Task], processes: int, bar: tqdm,
              finished: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """Results of all ``tasks``, in their order.

    Args:
        start: called once in every process with ``arguments``; returns the function that does a task. That function
            gets a task and a callback to which it reports finished units.
        processes: 1 works in this process; with more, arguments, tasks and results must pickle.
        bar: counts the units of these tasks.
        finished: called with each result as it comes.

    Raises:
        UserError: raised by a task, or a process died; the tasks under way are given up.
    """
    processes = min(processes, len(tasks))
    if not tasks:
        return []
    if processes <= 1:
        work, results = start(*arguments), []
        for task in tasks:
            results.append(work(task, bar.update))
            finished(results[-1])
        return results
    context = multiprocessing.get_context("spawn")  # a fork would not survive the threads of torch, nor CUDA
    counter = context.Value("q", 0)
    before = bar.n
    with _pool(processes, context, (counter, start, arguments)) as pool:
        with _deaf_children():
            futures = [pool.submit(_run, task) for task in tasks]  # this starts the processes
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(before + counter.value - bar.n)
                for future in done:
                    finished(future.result())
        except BrokenProcessPool as error:
            raise UserError("a worker process died: killed, or out of memory (try fewer --processes or a smaller "
                            "--batch-size); run the same command again to go on where it was") from error
        return [future.result() for future in futures]


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _pool(processes: int, context: Any, initargs: tuple) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are stopped, not waited for, when an error or an interruption leaves the block."""
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=initargs)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(BaseException):
    """SIGTERM, which is how the parent stops its workers; unwinding a task removes the file that it is writing."""


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that start here ignore Ctrl-C, from their first import on: their parent, which hears it, stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(counter: Any, start: Callable, arguments: tuple) -> None:
    global _work, _done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _done = counter
    _work = start(*arguments)


def _die_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _stop(number: int, frame: object) -> None:
    if not _at_work:
        os._exit(128 + number)
    raise _Stopped


def _run(task: Any) -> Any:
    global _at_work
    try:
        _at_work = True
        return _work(task, _report)
    except _Stopped:
        os._exit(128 + signal.SIGTERM)
    finally:
        _at_work = False


def _report(units: int) -> None:
    with _done.get_lock():
        _done.value += units
