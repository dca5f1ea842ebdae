"""`ovd detect` on scenes of the embedded world, whose truth is known, with the embedded model."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from ovd.data.shapes.dataset import write_dataset
from pipelines.cli import run_stage


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos in a folder, with one that is none, and a video of them; truth by file name."""
    root = tmp_path_factory.mktemp("detect")
    write_dataset(root / "data", {"train": 12, "val": 1}, seed=5, size=192)
    truth = json.loads((root / "data/annotations/instances_train.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    boxes = [(files[one["image_id"]], names[one["category_id"]], one["bbox"]) for one in truth["annotations"]]
    photos = root / "photos"
    photos.mkdir()
    for file in files.values():
        (photos / file).write_bytes((root / "data/train2017" / file).read_bytes())
    writer = cv2.VideoWriter(str(root / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (192, 192))
    for file in sorted(files.values()) * 10:
        writer.write(cv2.imread(str(photos / file)))
    writer.release()
    (photos / "broken.jpg").write_bytes(b"no image")
    return root, boxes


def ovd(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "pipelines.cli", "detect", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored under nohup
                            **options)


def detect(capsys, *arguments):
    status = run_stage("detect", [*map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_words_find_what_is_there(world, tmp_path, capsys):
    root, boxes = world
    wanted = sorted({name for _, name, _ in boxes})[:6]
    status, out, err = detect(capsys, root / "photos", "--words", ", ".join(wanted), "--out", tmp_path)
    assert status == 0
    assert "left out: " in err + out and "broken.jpg: not an image" in err + out
    assert "12 images looked at" in out
    found = json.loads((tmp_path / "detections.json").read_text())
    assert [category["name"] for category in found["categories"]] == wanted
    files = {image["id"]: image["file_name"] for image in found["images"]}
    assert list(files.values()) == sorted(path.name for path in (root / "photos").glob("0*"))
    names = {category["id"]: category["name"] for category in found["categories"]}
    seen = [(files[one["image_id"]], names[one["category_id"]]) for one in found["annotations"]]
    there = [(file, name) for file, name, _ in boxes if name in wanted]
    assert len(set(there) & set(seen)) >= 0.7 * len(set(there))
    assert len(set(seen) - set(there)) <= 0.5 * len(set(there))
    for one in found["annotations"]:
        assert one["segmentation"]["size"] == [192, 192] and one["score"] >= 0.3
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 12
    assert np.asarray(Image.open(pictures[0])).shape == (384, 384, 3)


def test_example_boxes_are_a_class(world, tmp_path, capsys):
    root, boxes = world
    name = max({name for _, name, _ in boxes}, key=lambda name: sum(other == name for _, other, _ in boxes))
    mine = [(file, box) for file, other, box in boxes if other == name][:3]
    lines = [f"{file},{x},{y},{x + width},{y + height},thing" for file, (x, y, width, height) in mine]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,x1,y1,x2,y2,class", *lines]) + "\n")
    status, out, _ = detect(capsys, *(root / "photos" / file for file in sorted({file for file, _ in mine})), "--boxes",
                            tmp_path / "boxes.csv", "--images", root / "photos", "--no-pictures", "--out",
                            tmp_path / "out")
    assert status == 0 and "of 1 of 1 classes: thing" in out
    assert not (tmp_path / "out/pictures").exists()
    found = json.loads((tmp_path / "out/detections.json").read_text())
    files = {image["id"]: image["file_name"] for image in found["images"]}
    for file, (x, y, width, height) in mine:
        overlaps = [_iou((x, y, x + width, y + height), one["bbox"]) for one in found["annotations"]
                    if files[one["image_id"]] == file]
        assert max(overlaps, default=0) > 0.5


def test_the_demo_model_says_what_it_knows_where_it_finds_nothing(world, tmp_path, capsys):
    root, _ = world
    photo = next((root / "photos").glob("0*"))
    status, out, _ = detect(capsys, photo, "--words", "plain blue ring", "--threshold", 1, "--no-pictures", "--out",
                              tmp_path / "none")
    assert status == 0 and "--model photos" in out and "loading the model demo" in out
    status, out, _ = detect(capsys, photo, "--threshold", 0, "--no-pictures", "--out", tmp_path / "some")
    assert status == 0 and "--model photos" not in out


def _iou(box, other):
    x, y, width, height = other
    wide = min(box[2], x + width) - max(box[0], x)
    high = min(box[3], y + height) - max(box[1], y)
    shared = max(0, wide) * max(0, high)
    return shared / ((box[2] - box[0]) * (box[3] - box[1]) + width * height - shared)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_files(world, tmp_path):
    root, _ = world
    arguments = root / "clip.mp4", root / "photos", "--batch-size", 1, "--out"
    whole = ovd(*arguments, tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read()
    stopped = ovd(*arguments, tmp_path / "out")
    lines = tmp_path / "out/detections.jsonl"
    wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 5, stopped)
    stopped.send_signal(signal.SIGINT)
    stopped.wait(60)
    assert stopped.returncode == 130
    assert "run the same command again" in stopped.stderr.read()
    done = lines.read_bytes().count(b"\n")
    assert 5 <= done < 132
    with open(lines, "ab") as file:
        file.write(b'{"image": "clip.mp4", "sta')  # as a power cut leaves it
    again = ovd(*arguments, tmp_path / "out")
    assert again.wait(300) == 0, again.stderr.read()
    assert f"{done} were done before" in again.stdout.read()
    for name in ("detections.json", "detections.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ours = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*"))
    assert ours == sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*"))
    capture = cv2.VideoCapture(str(tmp_path / "out/pictures/clip.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (120, 10)


def test_rivals_can_be_left_out(world, tmp_path, capsys):
    photos = sorted((world[0] / "photos").glob("0*"))[:6]
    counts = []
    for number, options in enumerate(([], ["--no-rivals"])):
        out = tmp_path / str(number)
        assert detect(capsys, *photos, "--words", "star, heart", "--out", out, "--no-pictures", *options)[0] == 0
        counts.append(len(json.loads((out / "detections.json").read_text())["annotations"]))
    assert counts[0] < counts[1]  # dotted red stars count as stars too


def test_what_changed_is_looked_at_again(world, tmp_path, capsys):
    root, _ = world
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((root / "photos").glob("0*"))[:3]:
        (photos / path.name).write_bytes(path.read_bytes())
    first, second, third = sorted(photos.iterdir())
    arguments = photos, "--out", tmp_path / "out", "--no-masks"
    assert "3 images looked at" in detect(capsys, *arguments)[1]
    assert "\n0 images looked at in 0 s, 3 were done before\n" in detect(capsys, *arguments)[1]
    before = json.loads((tmp_path / "out/detections.json").read_text())
    first.write_bytes(third.read_bytes())
    os.utime(first, ns=(1, 1))
    second.unlink()
    (tmp_path / f"out/pictures/{third.name}").unlink()
    said = detect(capsys, *arguments)[1]  # the third is only drawn again
    assert "\n1 images looked at" in said and "1 were done before" in said
    assert "left out: 1 from earlier, of pictures that are not among the inputs any more" in said
    assert (tmp_path / f"out/pictures/{third.name}").exists()
    after = json.loads((tmp_path / "out/detections.json").read_text())
    assert [image["file_name"] for image in after["images"]] == [first.name, third.name]
    of = {image["file_name"]: image["id"] for image in before["images"]}[third.name]
    expected = [(one["bbox"], one["category_id"]) for one in before["annotations"] if one["image_id"] == of]
    for image in (1, 2):
        assert [(one["bbox"], one["category_id"]) for one in after["annotations"]
                if one["image_id"] == image] == expected


def test_a_stream_of_images(world, tmp_path):
    root, _ = world
    data = b"".join(path.read_bytes() for path in sorted((root / "photos").glob("0*"))[:4])
    process = subprocess.run([sys.executable, "-m", "pipelines.cli", "detect", "-", "--every", "2", "--out", tmp_path],
                             input=data, capture_output=True, timeout=300)
    assert process.returncode == 0, process.stderr
    found = json.loads((tmp_path / "detections.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["stream/000000", "stream/000002"]
    assert sorted(path.name for path in (tmp_path / "pictures/stream").iterdir()) == ["000000.jpg", "000002.jpg"]


@pytest.mark.parametrize("batch, sent", [(1, 2), (8, 5)])
def test_a_stream_without_an_end_is_ended_by_an_interrupt(world, tmp_path, batch, sent):
    photos = sorted((world[0] / "photos").glob("0*"))
    process = ovd("-", "--batch-size", batch, "--out", tmp_path, stdin=subprocess.PIPE)
    try:
        for path in photos[:sent]:
            process.stdin.buffer.write(path.read_bytes())
        process.stdin.buffer.write(photos[sent].read_bytes()[:1000])
        process.stdin.flush()  # and stays open
        lines = tmp_path / "detections.jsonl"
        wait_until(lambda: not unread_bytes(process.stdin), process)
        if batch == 1:  # all are there, though no other has come
            wait_until(lambda: lines.read_bytes().count(b"\n") == sent, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "interrupted: the stream ends here" in out and "cut off" not in err
    names = [f"stream/{number:06d}" for number in range(sent)]
    found = json.loads((tmp_path / "detections.json").read_text())
    assert [image["file_name"] for image in found["images"]] == names and found["annotations"]
    assert sorted(f"stream/{path.stem}" for path in (tmp_path / "pictures/stream").iterdir()) == names


def unread_bytes(pipe) -> int:
    return int.from_bytes(fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("arguments, words", [
    (["nowhere"], "nowhere: no such file or folder"),
    (["{photos}", "--words", "a", "--vocabulary", "coco"], "--words and --vocabulary: give one of them"),
    (["{photos}", "--words", " , "], "--words: has no class names"),
    (["{photos}", "--words", "cat, Cat"], "cat"),
    (["{photos}", "--words-file", "nowhere.txt"], "nowhere.txt: cannot be read"),
    (["{photos}", "--images", "."], "give their file with --boxes"),
    (["{photos}", "--boxes", "nowhere.csv"], "nowhere.csv"),
    (["{photos}", "--model", "nowhere.safetensors"], "nowhere.safetensors: no such model file"),
    (["{photos}", "--threshold", "3"], "scores go from 0 to 1"),
    (["{photos}", "--device", "cuda:7"], "cuda:7"),
    (["{photos}", "--batch-size", "0"], "give 1 or more"),
])
def test_what_cannot_be_done_is_said_in_a_line(world, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = detect(capsys, *(argument.format(photos=world[0] / "photos") for argument in arguments))
    assert status == 2
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert words.lower() in err.lower()


def test_results_of_other_settings_are_kept(world, tmp_path, capsys):
    photo = next((world[0] / "photos").glob("0*"))
    assert detect(capsys, photo, "--out", tmp_path)[0] == 0
    status, _, err = detect(capsys, photo, "--out", tmp_path, "--threshold", "0.6")
    assert status == 2 and "another threshold; pass --overwrite" in err
    assert detect(capsys, photo, "--out", tmp_path, "--threshold", "0.6", "--overwrite")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jpg").write_bytes(photo.read_bytes())
    status, _, err = detect(capsys, tmp_path / "elsewhere", "--out", tmp_path, "--threshold", "0.6")
    assert status == 2 and "another folder of pictures; pass --overwrite" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious.txt").write_text("mine")
    status, _, err = detect(capsys, photo, "--out", tmp_path / "other")
    assert status == 2 and "holds something else than detections" in err
