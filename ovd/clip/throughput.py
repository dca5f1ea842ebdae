"""How much of the time the image tower computes, which is what everything around it is to keep high."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Work:
    """What an image tower did.

    Attributes:
        crops: That it embedded.
        seconds: That it took for them; without what fed it, so ``crops / seconds`` is the bare encoder's throughput.
    """

    crops: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.crops + other.crops, self.seconds + other.seconds)

    def share(self, wall_seconds: float, encoders: int = 1) -> float:
        """Throughput over ``wall_seconds`` in terms of what so many bare encoders would reach, from 0 to 1."""
        return min(1.0, self.seconds / max(wall_seconds * encoders, 1e-9))


class Clock:
    """Adds up the time of the calls of a function on ``device``; on a GPU nothing waits for it before :meth:`read`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._crops, self._seconds = 0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, function: Callable[[Tensor], Tensor], pixels: Tensor, crops: int) -> Tensor:
        """``function(pixels)``, counted as ``crops`` embedded crops."""
        self._crops += crops
        if self._on_gpu:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(self._device)  # not that of the thread's current device
            before.record(stream)
            result = function(pixels)
            after.record(stream)
            self._events.append((before, after))
            return result
        start = time.perf_counter()
        result = function(pixels)
        self._seconds += time.perf_counter() - start
        return result

    def read(self) -> Work:
        """What was done since the last reading."""
        for before, after in self._events:
            after.synchronize()
            self._seconds += before.elapsed_time(after) / 1e3
        work = Work(self._crops, self._seconds)
        self._crops, self._seconds, self._events = 0, 0.0, []
        return work
