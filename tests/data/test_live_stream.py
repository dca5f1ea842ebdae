import io
import os
import threading
import time

from ovd.data.frames import Frames
from ovd.data.live_stream import LiveStream


def test_bytes_come_as_they_are_there_and_end_when_it_is_stopped():
    out, into = os.pipe()
    with open(out, "rb") as stream, open(into, "wb", buffering=0) as writer:
        live = LiveStream(stream)
        writer.write(b"first")
        assert live.read(1 << 20) == b"first"  # though more may come
        writer.write(b"second")
        assert live.read(3) == b"sec"
        threading.Timer(0.05, live.stop).start()
        assert live.read(9) == b"ond" and not live.is_stopped
        start = time.monotonic()
        assert live.read(9) == b"" and live.is_stopped and time.monotonic() - start < 30
        writer.write(b"late")
        assert live.read(9) == b""


def test_it_ends_with_what_it_is_read_from():
    out, into = os.pipe()
    os.write(into, b"all")
    os.close(into)
    with open(out, "rb") as stream:
        live = LiveStream(stream)
        assert [live.read(9), live.read(9), live.is_stopped] == [b"all", b"", False]
    live = LiveStream(io.BytesIO(b"memory"))
    assert [live.read(3), live.read(9), live.read(9)] == [b"mem", b"ory", b""]


def test_the_image_that_has_only_begun_is_left_out():
    out, into = os.pipe()
    with open(out, "rb") as stream, open(into, "wb", buffering=0) as writer:
        frames = Frames(["-"], stream=stream)
        writer.write(b"\xff\xd8\xff\xe0")
        threading.Timer(0.05, frames.stop).start()
        assert list(frames) == [] and frames.is_stopped
