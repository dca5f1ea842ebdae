import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ovd.data.frames import Frames, decoder
from ovd.errors import UserError


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (value, 0, 255)).save(path)
    return path


def video(path, frames=7, rate=5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 30 * number, np.uint8))
    writer.release()
    return path


def names(frames):
    return [frame.name for frame in frames]


def test_a_folder_is_all_below_it_by_name(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/deep/x.webp", "note.txt", ".hidden.jpg"):
        picture(tmp_path / name) if name != "note.txt" else (tmp_path / name).write_text("no picture")
    frames = Frames([tmp_path])
    assert names(frames) == ["a/deep/x.webp", "a/z.PNG", "b.jpg"]
    assert len(frames) == 3


def test_files_and_patterns_keep_the_order_that_they_are_given_in(tmp_path):
    for name in ("one.png", "sub/two.png", "sub/three.png"):
        picture(tmp_path / name)
    assert names(Frames([tmp_path / "one.png", f"{tmp_path}/sub/t*.png"])) == ["one.png", "three.png", "two.png"]
    assert names(Frames([f"{tmp_path}/**/t*.png"])) == ["three.png", "two.png"]


def test_names_are_relative_to_folders(tmp_path):
    for name in ("one.png", "sub/two.png", "sub/deep/three.png"):
        picture(tmp_path / name)
    assert Frames([tmp_path]).folders == [str(tmp_path)]
    assert Frames([tmp_path / "one.png", tmp_path / "sub"]).folders == [str(tmp_path), str(tmp_path / "sub")]
    assert Frames([f"{tmp_path}/**/t*.png"]).folders == [str(tmp_path / "sub")]
    assert Frames(["-"], stream=io.BytesIO()).folders == []


def test_a_video_is_its_frames(tmp_path):
    frames = Frames([video(tmp_path / "clip.mp4")], every=3)
    found = list(frames)
    assert len(frames) == 3
    assert [(frame.name, frame.number, frame.seconds) for frame in found] == [
        ("clip.mp4", 0, 0.0), ("clip.mp4", 3, 0.6), ("clip.mp4", 6, 1.2)]
    levels = [float(frame.content.mean()) for frame in found]
    assert levels == pytest.approx([0, 90, 180], abs=4)


def test_channels_are_rgb_whatever_the_source(tmp_path):
    path, decode = picture(tmp_path / "a.png"), decoder(lambda file: np.asarray(Image.open(file)))
    streamed = list(Frames(["-"], stream=io.BytesIO(path.read_bytes())))
    assert [decode(frame)[0, 0].tolist() for frame in (*Frames([path]), *streamed)] == [[100, 0, 255]] * 2
    assert names(streamed) == ["stream/000000"]


def test_a_stream_that_ends_in_an_image_keeps_those_before(tmp_path):
    Image.fromarray(np.full((9, 9, 3), 70, np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for every, expected in ((1, ["stream/000000", "stream/000001"]), (2, ["stream/000000"])):
        *frames, last = Frames(["-"], every, io.BytesIO(whole + whole + whole[:-9]))
        assert names(frames) == expected and all(frame.problem is None for frame in frames)
        assert last.name == "stream/000002" and "image 2 of the stream: cut off" in last.problem
    with pytest.raises(UserError, match="image 0 of the stream: cut off"):
        list(Frames(["-"], stream=io.BytesIO(whole[:-9])))


def test_results_below_the_input_are_no_input(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    picture(tmp_path / "out/pictures/a.png.jpg")
    monkeypatch.chdir(tmp_path)
    for given in (".", tmp_path, "*", "**/*"):
        assert names(Frames([given], but="out/pictures")) == ["a.png"]
    assert names(Frames(["out/pictures"], but="out/pictures")) == ["a.png.jpg"]  # named itself
    assert len(Frames(["."])) == 2


def test_what_is_done_is_not_opened(tmp_path):
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    stamp = (first.stat().st_size, first.stat().st_mtime_ns)
    assert names(Frames([tmp_path]).but(lambda name, now: name == "a.png" and now == stamp)) == [second.name]


def test_a_broken_video_is_a_frame_with_a_problem(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    [frame] = Frames([tmp_path / "clip.mp4"])
    with pytest.raises(UserError, match=r"clip.mp4: no video that can be decoded"):
        decoder(np.asarray)(frame)


@pytest.mark.parametrize("given, words", [
    ("nothing", "no such file or folder"), ("empty", "no image and no video in this folder"),
    ("*.png", "fits this pattern")])
def test_inputs_without_pictures_are_refused(tmp_path, given, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        Frames([f"{tmp_path}/{given}"])


def test_photos_in_the_format_of_a_phone_are_not_passed_over_in_silence(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert names(Frames([tmp_path])) == ["a.png", "b.HEIC"]


def test_two_files_of_one_name_are_refused(tmp_path):
    first, second = picture(tmp_path / "x/a.png"), picture(tmp_path / "y/a.png")
    with pytest.raises(UserError, match=r"would both have results named 'a.png'"):
        Frames([first, second])
