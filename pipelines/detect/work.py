"""Looking at frames one batch after the other, while threads decode the next ones and draw those before."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ovd.apis.detections import Detections
from ovd.apis.detector import Detector
from ovd.apis.images import read_rgb
from ovd.data.frames import Frame, Frames, decoder
from ovd.engine.lookahead import lookahead
from ovd.engine.workers import available_cores
from ovd.errors import UserError
from ovd.stores.atomic import refusal
from pipelines.detect.results import Results
from pipelines.running.console import duration
from pipelines.running.signals import handled

if TYPE_CHECKING:
    import cv2

_STOP = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Seen:
    """A frame on its way: its pixels, what was found in it, or why it could not be read."""

    frame: Frame
    image: np.ndarray | None = None
    found: Detections | None = None
    problem: str | None = None
    drawn: np.ndarray | None = None
    is_new: bool = True


def detect_frames(detector: Detector, frames: Frames, results: Results, *, threshold: float, masks: bool,
                  pictures: bool, batch_size: int, max_per_image: int, threads: int | None = None,
                  hint: str | None = None) -> int:
    """Look at all frames that have no results yet, keep what is found, and say what it was.

    Where some come on a stream, a signal to stop ends that, and the run goes on to its end; a second one ends the run.

    Args:
        hint: What to say where nothing is found.
        Others: as the options of the command line.

    Returns:
        The exit status: 1 where no image could be read.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # phones have photos of 108 megapixels
    if threads is None:
        threads = 2 if detector.device.type == "cpu" else max(2, available_cores() - 1)
    if frames.has_stream and batch_size == 1:
        threads = 0  # what waits for a thread waits for the next image of a camera too
    work = _Work(detector, results, pictures, batch_size, threads,
                 {"threshold": threshold, "masks": masks and detector.has_masks, "batch_size": batch_size,
                  "max_per_image": max_per_image})

    def stop(number: int, _: object) -> None:
        if frames.is_stopped:
            raise KeyboardInterrupt(number)
        frames.stop()

    start = time.perf_counter()
    with tqdm(total=None if frames.has_stream else len(frames), desc="detecting", unit=" images",
              smoothing=0.1) as bar, handled(_STOP if frames.has_stream else (), stop):
        work.go(frames, bar)
    seconds = time.perf_counter() - start
    counts = results.finish(detector.names)
    results.close()
    looked = f"{work.looked} images looked at in {duration(seconds)}"
    if work.looked:
        looked += f" ({work.looked / seconds:.1f} a second; the detector was busy {work.busy / seconds:.0%} of it)"
    print(looked + (f", {work.kept} were done before" if work.kept else ""))
    if frames.is_stopped:
        print("interrupted: the stream ends here")
    if work.unread:
        print(f"{work.unread} could not be read (see above)")
    common = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
    print(f"{counts.total()} detections of {len(counts)} of {len(detector.names)} classes" +
          (f": {common}{', ...' if len(counts) > 8 else ''}" if counts else f"; none has a score of {threshold:g}"))
    if hint and work.looked + work.kept and not counts:
        print(hint)
    if results.dropped:
        print(f"left out: {results.dropped} from earlier, of pictures that are not among the inputs any more")
    print(f"written: {results.coco}" + (f", {results.pictures}/" if pictures else ""))
    return 1 if work.unread and not work.looked + work.kept else 0


class _Work:

    def __init__(self, detector: Detector, results: Results, pictures: bool, batch_size: int, threads: int,
                 how: dict[str, Any]) -> None:
        self.detector, self.results, self.pictures = detector, results, pictures
        self.batch_size, self.threads, self.how = batch_size, threads, how
        self.looked = self.kept = self.unread = 0
        self.busy = 0.0  # seconds
        self._colours = tuple(detector.palette[name] for name in detector.names)
        self._decode = decoder(read_rgb)
        self._video: _VideoFile | None = None
        self._frames = 0  # of the video

    def go(self, frames: Frames, bar: tqdm) -> None:
        """All frames, in order."""
        def skip(name: str, stamp: tuple[int, int] | None) -> bool:
            if not self.results.is_done(name, stamp, self.pictures):
                return False
            count = self.results.keep(name)
            self.kept += count
            bar.update(count)
            return True

        ahead = max(2 * self.batch_size, self.threads)
        last = None
        try:
            with closing(lookahead(self._read, frames.but(skip), self.threads, ahead)) as decoded, \
                    closing(lookahead(self._draw, self._detected(decoded), self.threads, ahead)) as drawn:
                for seen in drawn:
                    if last is not None and last.name != seen.frame.name:
                        self._end_video(last)
                    last = seen.frame
                    self._keep(seen)
                    bar.update()
            if last is not None:
                self._end_video(last)
        finally:
            if self._video is not None:
                self._video.discard()

    def _read(self, frame: Frame) -> Seen:
        try:
            return Seen(frame, self._decode(frame))
        except UserError as error:
            return Seen(frame, problem=str(error))

    def _detected(self, decoded: Iterator[Seen]) -> Iterator[Seen]:
        while batch := list(islice(decoded, self.batch_size)):
            for seen in batch:
                frame = seen.frame
                if seen.image is not None and (record := self.results.known(frame.name, frame.number, frame.stamp)):
                    found = Detections.from_dict(record, self.detector.names)
                    seen.found, seen.is_new = replace(found, colours=self._colours), False
            new = [seen for seen in batch if seen.image is not None and seen.found is None]
            start = time.perf_counter()
            for seen, found in zip(new, self._look(new)):
                seen.found = found
            self.busy += time.perf_counter() - start
            yield from batch

    def _look(self, new: list[Seen]) -> list[Detections | None]:
        if not new:
            return []
        try:
            return self.detector.detect([seen.image for seen in new], **self.how)
        except UserError as error:  # one of them cannot be looked at, for example because it is too narrow
            if len(new) > 1:
                return [found for seen in new for found in self._look([seen])]
            new[0].problem = f"{new[0].frame.name}: {error}"
            return [None]

    def _draw(self, seen: Seen) -> Seen:
        if not self.pictures or seen.found is None:
            return seen
        if seen.frame.number is not None:
            seen.drawn = np.asarray(replace(seen.found, image=seen.image).plot())
            return seen
        path = self.results.picture_of(seen.frame.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(path.parent, error) from None
        replace(seen.found, image=seen.image).save(path)
        return seen

    def _keep(self, seen: Seen) -> None:
        frame = seen.frame
        about = {"image": frame.name, "stamp": frame.stamp}
        if frame.number is not None:
            about |= {"number": frame.number, "seconds": round(frame.seconds, 3)}
        if seen.found is None:
            self.unread += 1
            tqdm.write(f"left out: {seen.problem}")
            self.results.add({**about, "error": seen.problem})
            return
        if not seen.is_new:
            self.kept += 1
            self.results.keep_frame(frame.name, frame.number)
        else:
            self.looked += 1
            self.results.add({**about, **{key: value for key, value in seen.found.to_dict().items()
                                          if key != "image"}})
        if frame.number is not None:
            self._frames += 1
            if seen.drawn is not None:
                if self._video is None:
                    self._video = _VideoFile(self.results.picture_of(frame.name), seen.drawn.shape[:2])
                self._video.write(seen.drawn, frame)

    def _end_video(self, last: Frame) -> None:
        if last.number is None or not self._frames:
            return
        if self._video is not None:
            self._video.finish()
            self._video = None
        self.results.end_video(last.name, self._frames, last.stamp)
        self._frames = 0


class _VideoFile:
    """A video that appears under its name when it is whole."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, self.size = path, size
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._file: cv2.VideoWriter | None = None
        self._waiting: tuple[np.ndarray, Frame] | None = None  # the first frame: its rate is known at the second
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, rgb: np.ndarray, frame: Frame) -> None:
        """Add a frame, uint8 ``[H, W, 3]``."""
        if self._file is None and self._waiting is None:
            self._waiting = rgb, frame
            return
        if self._file is None:
            first, before = self._waiting
            self._open(1 / max(frame.seconds - before.seconds, 1e-3))
            self._put(first)
        self._put(rgb)

    def finish(self) -> None:
        """Give it its name."""
        if self._file is None and self._waiting is not None:
            self._open(25.0)
            self._put(self._waiting[0])
        self._file.release()
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Leave nothing of it."""
        if self._file is not None:
            self._file.release()
        with suppress(OSError):
            self._temporary.unlink()

    def _open(self, rate: float) -> None:
        import cv2

        height, width = self.size
        self._file = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not self._file.isOpened():
            raise UserError(f"{self.path}: this OpenCV cannot write videos; pass --no-pictures")

    def _put(self, rgb: np.ndarray) -> None:
        import cv2

        if rgb.shape[:2] != self.size:
            rgb = cv2.resize(rgb, self.size[::-1])
        self._file.write(np.ascontiguousarray(rgb[..., ::-1]))
