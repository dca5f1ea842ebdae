"""Desks of visitors without a browser or a model: what is kept, for how long; the gate; what visitors type."""

import asyncio
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from ovd.apis.detections import Detections
from ovd.errors import UserError
from ovd.web.board import drawn_boxes
from ovd.web.desk import MOST_EXAMPLES, Desk, Desks
from ovd.web.downloads import in_file_pixels
from ovd.web.events import sentence
from ovd.web.gate import Gate
from ovd.web.uploads import Limits, Picture
from ovd.web.words import table, typed_names
from pipelines.serve import amount


class FakeDetector:
    """A detector that counts what it is asked for."""

    own_names, has_masks = ("own one", "own two"), False

    def __init__(self, looks=None):
        self.names, self.looks = self.own_names, [] if looks is None else looks

    def session(self):
        other = FakeDetector(self.looks)
        other.names = self.names
        return other

    def set_vocabulary(self, names):
        if "bad" in names:
            raise UserError("bad is no name")
        self.names = tuple(names)

    def reset_vocabulary(self):
        self.names = self.own_names

    def add_class(self, name, text, boxes, method):
        assert name not in self.names and boxes
        self.names += (name,)

    def remove_class(self, name):
        if name not in self.names:
            raise UserError(f"there is no class {name!r}")
        self.names = tuple(other for other in self.names if other != name)

    def look(self, pixels):
        self.looks.append(pixels.shape)
        return SimpleNamespace(pixels=pixels)

    def name(self, evidence, threshold, masks):
        return Detections([], [], [], self.names, evidence.pixels.shape[:2])


def picture(side=20):
    return Picture("a.png", np.zeros((side, side, 3), np.uint8), (side, side))


def test_a_threshold_or_other_words_do_not_look_again():
    desk = Desk(FakeDetector())
    desk.show(picture())
    for threshold in (0.1, 0.5, 0.9):
        desk.found(threshold)
    desk.choose(["zebra"])
    assert desk.found(0.3).classes == ("zebra",)
    assert len(desk.detector.looks) == 1
    desk.show(picture(30))
    desk.found(0.3)
    assert desk.detector.looks == [(20, 20, 3), (30, 30, 3)]


def test_taught_classes_stay_when_words_change_and_words_stay_when_they_are_wrong():
    desk = Desk(FakeDetector())
    desk.show(picture())
    desk.choose(["zebra"])
    assert desk.teach("thing", [(0, 0, 0.5, 0.5)]) == 1
    assert desk.teach("Thing", [(0, 0, 0.5, 0.5)] * 2) == 3  # the same class in another spelling
    desk.choose(["lion", "thing"])
    assert desk.detector.names == ("lion", "Thing") and desk.words == ["lion"]
    with pytest.raises(UserError):
        desk.choose(["bad"])
    assert desk.detector.names == ("lion", "Thing")
    with pytest.raises(UserError, match="the most is"):
        desk.teach("Thing", [(0, 0, 0.5, 0.5)] * MOST_EXAMPLES)
    desk.remove("Thing")
    assert desk.detector.names == ("lion",) and not desk.taught
    desk.choose([])
    assert desk.detector.names == FakeDetector.own_names


@pytest.mark.parametrize(("name", "boxes"), [("", [(0, 0, 1, 1)]), ("x", []), ("x", [(0, 0, 0.01, 1)]),
                                             ("x" * 500, [(0, 0, 1, 1)])])
def test_a_class_needs_a_name_and_a_box(name, boxes):
    desk = Desk(FakeDetector())
    with pytest.raises(UserError, match="picture"):
        desk.teach("x", [(0, 0, 1, 1)])
    desk.show(picture())
    with pytest.raises(UserError):
        desk.teach(name, boxes)
    assert desk.detector.names == FakeDetector.own_names


def test_classes_keep_their_colours_while_they_are_there():
    desk = Desk(FakeDetector())
    desk.show(picture())
    desk.choose(["a", "b", "c"])
    before = desk.colours
    desk.remove("b")
    desk.choose(["c", "a", "d"])
    assert {name: desk.colours[name] for name in "ac"} == {name: before[name] for name in "ac"}
    assert desk.colours["d"] == before["b"] and len(set(desk.colours.values())) == 3


def test_desks_are_bounded_in_number_time_and_memory():
    now = [0.0]
    desks = Desks(FakeDetector(), most=3, idle=100, memory=4000, clock=lambda: now[0])
    first = desks.of("first")
    assert desks.of("first") is first and desks.of(None) is not desks.of(None)
    for name in ("second", "third"):
        desks.of(name)
        now[0] += 10
    desks.of("first")
    desks.of("fourth")  # the one that was idle longest goes: the second
    assert len(desks) == 3 and desks.of("first") is first
    now[0] += 101
    desks.of("fifth")
    assert len(desks) == 1 and desks.of("first") is not first
    desks.of("first").show(picture(30))  # 2700 bytes
    desks.of("fifth").show(picture(30))
    desks.of("fifth")
    assert len(desks) == 1
    desks.leave("fifth")
    desks.leave("nobody")
    assert len(desks) == 0


def test_what_was_seen_is_kept_for_few_visitors_and_looked_at_again_when_needed():
    detector = FakeDetector()
    desks = Desks(detector, looked_at=2)
    for name in ("a", "b", "c"):
        desks.of(name).show(picture())
        desks.of(name).found(0.3)
    assert len(detector.looks) == 3
    desks.of("c").found(0.5)
    assert len(detector.looks) == 3
    desks.of("a").found(0.5)
    assert len(detector.looks) == 4


def ask(gate, path, body=b"", method="POST", headers=()):
    """Status that a request gets, and what came through."""
    sent, parts = [], [body[i:i + 300_000] for i in range(0, len(body), 300_000)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"]


@pytest.fixture
def gate(tmp_path):
    """A gate before an application that reads what it is given."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()

    async def app(scope, receive, send):
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message["body"])
            if not message["more_body"]:
                break
        complete = message["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200 if complete else 499, "headers": [], "size": size})

    return Gate(app, 500_000, uploads)


def test_only_uploads_are_let_through_the_gate(gate, tmp_path):
    inside = tmp_path / "uploads" / "a" / "b.png"
    inside.parent.mkdir()
    inside.write_bytes(b"x")
    (tmp_path / "uploads" / "link.png").symlink_to("/etc/passwd")
    assert ask(gate, "/gradio_api/queue/join", json.dumps({"data": [{"path": str(inside)}, 0.3]}).encode()) == 200
    assert ask(gate, "/gradio_api/queue/join", json.dumps({"data": ["/etc/passwd", {"name": "/etc"}]}).encode()) == 200
    for named in ("/etc/passwd", f"{tmp_path}/uploads/../x", "uploads/a", f"{tmp_path}/uploads/link.png", 7, ["a"],
                  "http://127.0.0.1/x.png", "\0", os.path.relpath("/etc/passwd")):
        for value in ({"path": named}, [[{"deep": [{"path": named, "url": "x"}]}]]):
            assert ask(gate, "/gradio_api/queue/join", json.dumps({"data": value}).encode()) == 400, named
    for route in ("run", "call", "api"):
        body = json.dumps([{"url": "file:///etc/passwd"}]).encode()
        assert ask(gate, f"/gradio_api/{route}/upload", body) == 400
    assert ask(gate, "/gradio_api/queue/join", b"{not json") == 400
    assert ask(gate, "/gradio_api/queue/join", b"[" * 100_000) == 400


def test_the_gate_limits_sizes_and_shuts_routes(gate):
    assert ask(gate, "/gradio_api/upload", b"x" * 1_400_000) == 200  # a file and what is around it
    assert ask(gate, "/gradio_api/upload", b"x" * 1_600_000) == 499  # cut off, though it did not say how long it is
    assert ask(gate, "/gradio_api/upload", b"x", headers=[(b"content-length", b"1600000")]) == 413
    assert ask(gate, "/gradio_api/queue/join", b" " * 1_100_000) == 413
    for path in ("/gradio_api/file=/etc/passwd", "//gradio_api//file=x", "/file/x", "/gradio_api/proxy=http://x",
                 "/gradio_api/stream/1", "/monitoring", "/gradio_api/custom_component/x"):
        assert ask(gate, path, method="GET") == 404
    assert ask(gate, "/", method="GET") == 200 and ask(gate, "/assets/index.js", method="GET") == 200


def test_a_server_of_this_machine_answers_to_its_own_names(tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    gate = Gate(app, 1000, tmp_path, frozenset(("localhost", "127.0.0.1", "[::1]")))
    for name in ("localhost", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:1"):
        assert ask(gate, "/", method="GET", headers=[(b"host", name.encode())]) == 200
    for name in ("attacker.example", "localhost.attacker.example:7860", ""):
        assert ask(gate, "/", method="GET", headers=[(b"host", name.encode())]) == 403
    assert ask(gate, "/", method="GET") == 403


def test_typed_names():
    assert typed_names(" zebra, traffic  cone;\nzebra\n\n, lion ") == ["zebra", "traffic cone", "lion"]
    assert typed_names("") == typed_names(None) == []


def test_names_cannot_break_the_table():
    found = Detections([[0, 0, 5, 5]], [0.5], [0], ("<img src=x onerror=alert(1)>",), (9, 9), colours=((1, 2, 3),))
    assert "<img" not in table(found) and "&lt;img" in table(found)


def test_boxes_of_a_board_are_checked():
    assert drawn_boxes([[0, 0.5, 1, 1]]) == [(0.0, 0.5, 1.0, 1.0)] and drawn_boxes(None) == []
    for wrong in ([[0, 0, 1]], [["0", 0, 1, 1]], [[float("nan"), 0, 1, 1]], {"a": 1}, [[0, 0, 1, 1]] * 51):
        with pytest.raises(UserError):
            drawn_boxes(wrong)


def test_downloads_are_in_pixels_of_the_file():
    from ovd.apis.detections import encode_masks

    mask = np.zeros((1, 10, 20), bool)
    mask[0, 2:4, 5:10] = True
    found = Detections([[5, 2, 10, 4]], [0.5], [0], ("a",), (10, 20), rles=encode_masks(mask))
    large = in_file_pixels(found, Picture("a", np.zeros((10, 20, 3), np.uint8), (30, 60)))
    assert large.boxes.tolist() == [[15, 6, 30, 12]] and large.image_size == (30, 60)
    masks = large.masks()
    assert masks.shape == (1, 30, 60) and masks.sum() == 90 and masks[0, 6:12, 15:30].all()


@pytest.mark.parametrize(("text", "value"), [("20MB", 20_000_000), ("1.5M", 1_500_000), ("300 kb", 300_000), ("7", 7)])
def test_amounts(text, value):
    assert amount(text, "--max-upload") == value
    assert Limits().pixels == amount("50M", "--max-pixels")


@pytest.mark.parametrize("text", ["", "MB", "-1", "0", "1TB", "1e9"])
def test_wrong_amounts(text):
    with pytest.raises(UserError, match="--max-upload"):
        amount(text, "--max-upload")


@pytest.mark.parametrize("said, shown", [
    ("text.jpg is no picture", "text.jpg is no picture."), ("the box is too small.", "The box is too small."),
    ("a class", "A class.")])
def test_errors_are_sentences_and_files_keep_their_names(said, shown):
    assert sentence(said) == shown
