"""What a person sees of a run: a line per stage, and below, on a terminal, what the running stages are doing."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(r"\|[ #\u2580-\u259f]*\|")


def duration(seconds: float) -> str:
    """``7 s``, ``2 min 05 s``, ``1 h 02 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def last_lines(log: Path, start: int = 0, count: int = 1, window: int = 8192) -> list[str]:
    """The last lines of a log from byte ``start`` on, as a terminal shows them: of a progress bar, the last state."""
    try:
        with open(log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - window))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in _ESCAPES.sub("", text).split("\n")]
    return [line for line in lines if line.strip()][-count:]


def without_bar(line: str) -> str:
    """A progress line as numbers only, so that the time left fits: ``"crops: 45% 9/20 [00:03<00:04]"``."""
    return " ".join(_BAR.sub(" ", line).split())


class Console:
    """Lines that stay, and below them lines that are redrawn while ``stream`` is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.is_live = self.stream.isatty() and os.environ.get("TERM") not in (None, "dumb")
        self._drawn = 0

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.stream.write(self._erase() + text + "\n")
        self.stream.flush()

    def redraw(self, lines: Sequence[str]) -> None:
        """Show ``lines`` in place of those of the last call; does nothing where the output is no terminal."""
        if not self.is_live:
            return
        width = shutil.get_terminal_size().columns - 1
        text = self._erase() + "".join(line[:width] + "\n" for line in lines)
        self._drawn = len(lines)
        self.stream.write(text)
        self.stream.flush()

    def _erase(self) -> str:
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}A\x1b[J" if drawn else ""
