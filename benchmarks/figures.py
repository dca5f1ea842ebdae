"""A measured figure as a JSON line, with the machine that it was measured on."""

import json
import math
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

KEYS = {"name": str, "value": (int, float), "unit": str, "peer": str, "peer_value": (int, float), "ratio": (int, float),
        "machine": str}


def print_figure(name: str, value: float, unit: str, peer: str, peer_value: float, *,
                 higher_is_better: bool = False) -> None:
    """Print a line with the fields of :data:`KEYS`.

    Its ratio says how many times better the value is than the peer's, so that more than 1 is better whatever the unit.

    Args:
        name: What was measured, with its size, and the device where it is not the CPU.
        peer: What it is compared with.
        higher_is_better: As for images per second; otherwise less is better, as for seconds.

    Raises:
        ValueError: A value that is negative or not finite, or a ratio to nothing.
    """
    better, worse = (value, peer_value) if higher_is_better else (peer_value, value)
    if not (math.isfinite(better) and math.isfinite(worse) and better >= 0 and worse > 0):
        raise ValueError(f"{name}: no ratio of {value} and {peer_value} {unit}")
    ratio = better / worse
    print(json.dumps({"name": name, "value": rounded(value), "unit": unit, "peer": peer,
                      "peer_value": rounded(peer_value), "ratio": rounded(ratio), "machine": machine()}), flush=True)


def parsed(line: str) -> dict:
    """The figure of a line that :func:`print_figure` printed.

    Raises:
        ValueError: It is not JSON, a field is missing, unknown or of another type, or a number is not finite.
    """
    figure = json.loads(line)
    if not isinstance(figure, Mapping) or set(figure) != set(KEYS):
        raise ValueError(f"not the fields {', '.join(KEYS)}: {line.strip()[:200]}")
    for key, kind in KEYS.items():
        number = isinstance(figure[key], int | float)
        if not isinstance(figure[key], kind) or isinstance(figure[key], bool) or (number and
                                                                                 not math.isfinite(figure[key])):
            raise ValueError(f"{key} is {figure[key]!r}: {line.strip()[:200]}")
    return dict(figure)


def rounded(number: float) -> float:
    """To four significant digits; digits before the point are kept."""
    digits = 3 - math.floor(math.log10(number)) if number else 1
    return round(number, digits) if digits > 0 else round(number)


def machine() -> str:
    """Processor, cores (and how many this process may use), GPU, torch and its threads; not the host's name."""
    import torch

    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    parts = [_processor(), f"{cores} cores" if usable == cores else f"{usable} of {cores} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return ", ".join([*parts, f"torch {torch.__version__} on {threads} thread{'s' if threads > 1 else ''}"])


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
