"""Ctrl-C (and SIGTERM) while images come on a stream: the stream ends there, with results of what came before."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ovd.data.frames import Frames


@contextmanager
def ended_by_signals(frames: Frames) -> Iterator[None]:
    """The first signal to stop ends the stream, which a camera's does not by itself; a second one interrupts."""

    def stop(number: int, _: object) -> None:
        if frames.is_stopped:
            raise KeyboardInterrupt(number)
        frames.stop()

    before = {}
    if frames.has_stream and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
