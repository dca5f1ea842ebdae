"""JPEG and PNG images one behind the other on a stream, as ``ffmpeg -f image2pipe`` writes them.

Both formats say where they end: PNG (ISO/IEC 15948, 5) in chunks with their length, up to ``IEND``; JPEG (ITU-T T.81,
annex B) in segments with their length, and entropy-coded data in which a marker is 0xFF and neither 0x00 nor a restart.
"""

from collections.abc import Iterator
from typing import BinaryIO

from ovd.errors import UserError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_BLOCK = 1 << 16
_MOST = 1 << 28  # bytes of one image


def split_images(stream: BinaryIO) -> Iterator[bytes]:
    """The images of a stream, each as its encoded bytes.

    Raises:
        UserError: Something else than JPEG or PNG; an image that is cut off.
    """
    source = _Source(stream)
    number = 0
    while source.has(1):
        if source.has(2) and source.data.startswith(_JPEG):
            end = _jpeg_end(source)
        elif source.has(8) and source.data.startswith(_PNG):
            end = _png_end(source)
        else:
            raise UserError(f"image {number} of the stream: neither JPEG nor PNG (it begins with "
                            f"{bytes(source.data[:4]).hex(' ')}); with ffmpeg: -f image2pipe -c:v mjpeg -")
        if end is None:
            raise UserError(f"image {number} of the stream: cut off, or over {_MOST >> 20} MB")
        yield source.take(end)
        number += 1


class _Source:
    """Bytes of a stream that have not been taken yet."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.data = bytearray()

    def has(self, count: int) -> bool:
        """Whether there are so many bytes, once more have been read where need be."""
        while len(self.data) < count <= _MOST:
            block = self.stream.read(max(_BLOCK, count - len(self.data)))
            if not block:
                return False
            self.data += block
        return len(self.data) >= count

    def take(self, count: int) -> bytes:
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken


def _png_end(source: _Source) -> int | None:
    place = len(_PNG)
    while source.has(place + 8):
        length, kind = int.from_bytes(source.data[place:place + 4], "big"), source.data[place + 4:place + 8]
        place += 12 + length
        if kind == b"IEND":
            return place if source.has(place) else None
    return None


def _jpeg_end(source: _Source) -> int | None:
    place = 2
    while source.has(place + 2):
        marker = source.data[place + 1]
        if source.data[place] != 0xFF:
            return None
        if marker == 0xD9:
            return place + 2
        if marker == 0xFF:  # fill
            place += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # alone
            place += 2
        elif not source.has(place + 4):
            return None
        else:
            place += 2 + int.from_bytes(source.data[place + 2:place + 4], "big")
            if marker == 0xDA:  # entropy-coded data follow
                found = _next_marker(source, place)
                if found is None:
                    return None
                place = found
    return None


def _next_marker(source: _Source, place: int) -> int | None:
    while source.has(place + 2):
        found = source.data.find(0xFF, place)
        if found < 0:
            place = len(source.data)
        elif not source.has(found + 2):
            return None
        elif source.data[found + 1] == 0x00 or 0xD0 <= source.data[found + 1] <= 0xD7:
            place = found + 2
        else:
            return found
    return None
