"""A stream without an end of its own, such as a camera's, that ends when it is told to."""

import os
import select
from typing import BinaryIO

_LOOK = 0.1  # seconds between two looks at whether it is stopped, while nothing comes


class LiveStream:
    """Bytes as they come; none any more after :meth:`stop`, which a signal's handler may call.

    Args:
        stream: Of which nothing has been read; one without a file (``io.BytesIO``) is read as it is.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.is_stopped = False
        try:
            self._file = stream.fileno()
        except (OSError, AttributeError):
            self._file = None

    def stop(self) -> None:
        """End it."""
        self.is_stopped = True

    def read(self, count: int) -> bytes:
        """At most so many bytes: what is there, after the first have come; none at the end."""
        while not self.is_stopped:
            if self._file is None:
                return self._stream.read(count)
            if select.select([self._file], [], [], _LOOK)[0]:
                return os.read(self._file, count)
        return b""
