"""Pictures to look at, wherever they are: files, folders, patterns, videos, and encoded images on a stream."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ovd.data.encoded_stream import split_images
from ovd.data.live_stream import LiveStream
from ovd.data.rgb import PHONE_PHOTOS
from ovd.errors import UserError

IMAGES = PHONE_PHOTOS | {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))
STREAM = "-"


@dataclass(frozen=True)
class Frame:
    """An image file, or one image of a video or of a stream.

    Attributes:
        name: Of its results: the path below the input, with ``/``; of a video's frame, the video's.
        content: The file; what was decoded (uint8 ``[H, W, 3]`` RGB); or bytes that are still encoded.
        number: Of the frame in its video, from 0; None for a file.
        seconds: When the frame is shown.
        stamp: Size in bytes and time of change (ns) of the file that it is in: whether it is still the same.
        problem: Why there is nothing to decode.
    """

    name: str
    content: Path | np.ndarray | bytes
    number: int | None = None
    seconds: float | None = None
    stamp: tuple[int, int] | None = None
    problem: str | None = None


class Frames:
    """All pictures of some inputs, in order: the order that they were given in, a folder's by name.

    Args:
        inputs: Files; folders, with all below them; patterns with ``*``, ``?`` or ``[...]``; ``-`` for images on a
            stream, encoded one behind the other (``ffmpeg -f image2pipe``).
        every: Take each so-manieth frame of a video or a stream.
        stream: Where ``-`` is read from.
        but: A folder whose pictures do not count where they are found in a folder or by a pattern: that of results.

    Raises:
        UserError: An input that is not there or has no pictures; two that would have results of one name.
    """

    def __init__(self, inputs: Sequence[str | os.PathLike], every: int = 1, stream: BinaryIO | None = None,
                 but: str | os.PathLike | None = None) -> None:
        if every < 1:
            raise UserError(f"each {every}th frame: give 1 or more")
        self.every = every
        self._stream = None if stream is None else LiveStream(stream)
        self.files: list[tuple[str, Path | None]] = []
        for one in inputs:
            self.files += [(STREAM, None)] if str(one) == STREAM else _files(os.fspath(one), but)
        seen: dict[str, Path | None] = {}
        for name, path in self.files:
            if name in seen:
                raise UserError(f"{path} and {seen[name]} would both have results named {name!r}; detect in them one "
                                "after the other, each with its own --out")
            seen[name] = path

    def __len__(self) -> int:
        """How many there are, as far as the files say: the images of a stream cannot be counted beforehand."""
        return sum(0 if path is None else _count(path, self.every) for _, path in self.files)

    @property
    def has_stream(self) -> bool:
        """Whether some of them come on a stream."""
        return any(path is None for _, path in self.files)

    @property
    def is_stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stream is not None and self._stream.is_stopped

    def stop(self) -> None:
        """End the stream here, without the image that has only begun."""
        if self._stream is not None:
            self._stream.stop()

    @property
    def folders(self) -> list[str]:
        """The folders that their names are relative to."""
        found = {os.path.abspath(path)[:-len(name)] for name, path in self.files if path is not None}
        return sorted(os.path.normpath(folder) for folder in found)

    def __iter__(self) -> Iterator[Frame]:
        return self.but(lambda name, stamp: False)

    def but(self, skip: Callable[[str, tuple[int, int] | None], bool]) -> Iterator[Frame]:
        """All but those of files for which ``skip(name, stamp)`` is true; these are not opened."""
        for name, path in self.files:
            if path is None:
                yield from self._streamed()
                continue
            stamp = _stamp(path)
            if skip(name, stamp):
                continue
            if is_video(path):
                yield from _video(name, path, self.every, stamp)
            else:
                yield Frame(name, path, stamp=stamp)

    def _streamed(self) -> Iterator[Frame]:
        if self._stream is None:
            raise UserError("-: there is no stream to read images from")
        number = 0
        try:
            for data in split_images(self._stream):
                if number % self.every == 0:
                    yield Frame(f"stream/{number:06d}", data)
                number += 1
        except UserError as error:  # the images before it are whole
            if self.is_stopped:
                return
            if not number:
                raise
            yield Frame(f"stream/{number:06d}", b"", problem=str(error))


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file's name is a video's."""
    return Path(path).suffix.lower() in VIDEOS


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGES | VIDEOS and not path.name.startswith(".")


def _files(given: str, but: str | os.PathLike | None) -> list[tuple[str, Path]]:
    """Name and path of each picture of an input."""
    path = Path(given)
    left_out = None if but is None or Path(but).resolve() == path.resolve() else Path(but).resolve()

    def is_wanted(file: Path) -> bool:
        return _is_picture(file) and (left_out is None or not file.resolve().is_relative_to(left_out))

    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if is_wanted(file) and file.is_file())
        if not found:
            raise UserError(f"{path}: no image and no video in this folder, nor below it")
        return [(file.relative_to(path).as_posix(), file) for file in found]
    if path.exists():
        return [(path.name, path)]
    if glob.has_magic(given):
        found = sorted(file for file in map(Path, glob.glob(given, recursive=True)) if is_wanted(file))
        if not found:
            raise UserError(f"{given}: no image and no video fits this pattern")
        folder = os.path.commonpath([file.parent for file in found])
        return [(Path(os.path.relpath(file, folder)).as_posix(), file) for file in found]
    raise UserError(f"{given}: no such file or folder")


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None  # gone meanwhile: reading it will say so
    return about.st_size, about.st_mtime_ns


def _count(path: Path, every: int) -> int:
    if not is_video(path):
        return 1
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        return max(0, -(-int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // every))
    finally:
        capture.release()


def frame_rate(path: str | os.PathLike, default: float = 25.0) -> float:
    """Frames a second of a video, as its header says."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
    finally:
        capture.release()
    return rate if 0 < rate < 1000 else default


def _video(name: str, path: Path, every: int, stamp: tuple[int, int] | None) -> Iterator[Frame]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    rate, number = frame_rate(path), 0
    try:
        while capture.grab():
            if number % every == 0:
                fine, bgr = capture.retrieve()
                if not fine:
                    break
                yield Frame(name, np.ascontiguousarray(bgr[..., ::-1]), number, number / rate, stamp)
            number += 1
    finally:
        capture.release()
    if not number:
        yield Frame(name, path, 0, 0.0, stamp,
                    f"{path}: no video that can be decoded; convert it, for example to H.264 in an .mp4")


def decoder(read: Callable[[Path | np.ndarray], np.ndarray]) -> Callable[[Frame], np.ndarray]:
    """What makes a frame's pixels, uint8 ``[H, W, 3]`` RGB, given what reads files."""
    def decode(frame: Frame) -> np.ndarray:
        if frame.problem is not None:
            raise UserError(frame.problem)
        if not isinstance(frame.content, bytes):
            return read(frame.content)
        import cv2

        bgr = cv2.imdecode(np.frombuffer(frame.content, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise UserError(f"{frame.name}: not an image that can be decoded")
        return np.ascontiguousarray(bgr[..., ::-1])
    return decode
