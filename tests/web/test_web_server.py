"""The server of the page, as clients meet it: limits, files of the machine, broken pictures, ten visitors at once."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from web_world import ROOT, start

from ovd.web.scenes import example_scenes

SECRET = "not-for-visitors"


@pytest.fixture(scope="module")
def scenes():
    return example_scenes()


@pytest.fixture
def client(served):
    return visitor(served.url)


def visitor(url: str) -> Client:
    """A visitor who has patience: the machine may be busy."""
    return Client(url, verbose=False, httpx_kwargs={"timeout": 120})


def said(answer) -> str:
    """The sentence of an answer, without its tags."""
    return next(part for part in answer if isinstance(part, str) and 'class="notice' in part)


def names_of(answer) -> list[str]:
    chips = next(part for part in answer if isinstance(part, dict) and "classes" in part)
    return [one["name"] for one in chips["classes"]]


def saved(client, threshold=0.3) -> dict:
    """What the page would save as json."""
    file = client.predict(threshold, True, api_name="/json")[0]
    return json.loads(base64.b64decode(file["data"].partition(",")[2]))


def upload(client, content: bytes, name: str, tmp_path) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return said(client.predict(handle_file(str(path)), 0.3, True, api_name="/upload"))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_example_is_named_right(client, scenes):
    for number, scene in enumerate(scenes):
        answer = client.predict(number, "", 0.3, True, api_name="/example")
        assert names_of(answer) == scene.names
        assert sorted(one["name"] for one in saved(client)["detections"]) == sorted(name for name, _ in scene.objects)


def test_ten_visitors_at_once_keep_their_own_words(served, scenes):
    wrong, begin = [], threading.Barrier(10)

    def visit(number: int) -> None:
        scene = scenes[number % len(scenes)]
        word = scene.names[number % len(scene.names)]
        mine = visitor(served.url)
        mine.predict(number % len(scenes), "", 0.3, True, api_name="/example")
        begin.wait(120)
        for _ in range(4):
            answer = mine.predict(f"{word}, zebra {number}", 0.3, True, api_name="/find")
            if names_of(answer) != [word, f"zebra {number}"]:
                wrong.append((number, names_of(answer)))
            found = saved(mine)
            if {one["name"] for one in found["detections"]} != {word} or found["image"] != f"scene {number % 6 + 1}":
                wrong.append((number, found))

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(10)]
    for thread in visitors:
        thread.start()
    for thread in visitors:
        thread.join(300)
    assert not wrong
    assert not begin.broken


def test_a_class_is_taught_by_a_box_alone(client, scenes):
    client.predict(0, "", 0.3, True, api_name="/example")
    name, (x1, y1, x2, y2) = scenes[0].objects[0]
    client.predict("zebra", 0.3, True, api_name="/find")
    assert saved(client)["detections"] == []
    box = [value / 576 for value in (x1, y1, x2, y2)]
    answer = client.predict("my thing", [box], False, 0.3, True, api_name="/teach")
    assert names_of(answer) == ["zebra", "my thing"]
    best = saved(client)["detections"][0]
    assert best["name"] == "my thing"
    assert max(abs(a - b) for a, b in zip(best["box"], (x1, y1, x2, y2))) < 40
    answer = client.predict(f"{name}", 0.3, True, api_name="/find")  # other words leave it where it is
    assert names_of(answer) == [name, "my thing"]


@pytest.mark.parametrize("boxes", [[[0, 0, 1]], [["a", 0, 1, 1]], "x", [[0, 0, 0.001, 0.001]], [], {"a": 1}])
def test_wrong_boxes_are_answered_with_a_sentence(client, boxes):
    client.predict(0, "", 0.3, True, api_name="/example")
    answer = client.predict("thing", boxes, False, 0.3, True, api_name="/teach")
    assert "wrong" in said(answer) and "Something went wrong" not in said(answer)


def test_a_threshold_outside_its_range_is_refused(client):
    client.predict(0, "", 0.3, True, api_name="/example")
    with pytest.raises(AppError):
        client.predict(7, True, api_name="/threshold")


def test_broken_and_unusual_pictures(client, tmp_path, scenes):
    picture = Image.fromarray(scenes[1].picture.pixels)
    jpeg = encoded(picture, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    frames = [picture.resize((90, 90)), picture.rotate(90).resize((90, 90))]
    good = {"cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"), "grey.png": encoded(picture.convert("L"), "PNG"),
            "turned.jpg": encoded(picture.crop((0, 0, 300, 200)), "JPEG", exif=exif),
            "alpha.png": encoded(picture.convert("RGBA"), "PNG"), "palette.gif": encoded(picture.convert("P"), "GIF"),
            "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            "deep.tif": encoded(Image.new("I;16", (40, 60), 30000), "TIFF")}
    for name, content in good.items():
        assert 'class="notice plain"' in (text := upload(client, content, name, tmp_path)), (name, text)
        found = saved(client)
        assert found["image"] == name
        if name == "turned.jpg":
            assert (found["height"], found["width"]) == (300, 200)
        assert ("first of its 2 frames" in text) == (name == "animated.gif")
    bad = {"cut.jpg": (jpeg[:len(jpeg) // 3], "cut off or damaged"), "empty.png": (b"", "not a picture"),
           "text.jpg": (b"hello", "not a picture"), "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a"),
           "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
           "huge.png": (encoded(Image.new("1", (3000, 2000)), "PNG"), "most is 4 million"),
           "bomb.png": (encoded(Image.new("1", (20000, 20000)), "PNG"), "most is 4 million"),
           "thin.png": (encoded(Image.new("RGB", (1, 500)), "PNG"), "too narrow")}
    for name, (content, why) in bad.items():
        assert why in (text := upload(client, content, name, tmp_path)), (name, text)
        assert 'role="alert"' in text
    assert saved(client)["image"] == list(good)[-1]  # what was there before stays


def test_a_file_beyond_the_limit_is_not_taken(served, client, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(os.urandom(2_500_000))
    with pytest.raises(Exception, match=r"(?i)413|too large|maximum|exceeds"):
        client.predict(handle_file(str(path)), 0.3, True, api_name="/upload")
    answer = httpx.post(f"{served.url}/gradio_api/queue/join", content=b"x" * 4_000_000, timeout=60)
    assert answer.status_code == 413

    def endless():
        for _ in range(40):
            yield b"y" * 100_000

    try:
        answer = httpx.post(f"{served.url}/gradio_api/upload", content=endless(), timeout=60)
    except httpx.HTTPError:
        return
    assert answer.status_code >= 400


def test_files_of_the_machine_are_not_served(served, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    link = tmp_path / "link.txt"
    link.symlink_to("/etc/passwd")
    for path in (secret, link, "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "README.md",
                 "http://127.0.0.1:9/x"):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/static/", "/assets/",
                      "/gradio_api/custom_component/", "/svelte/", "/gradio_api/stream/", "/gradio_api//file=",
                      "/gradio_api/%66ile="):
            answer = httpx.get(f"{served.url}{route}{path}", timeout=60)
            assert answer.status_code in (403, 404, 405), (route, path, answer.status_code)
            assert SECRET not in answer.text and "root:" not in answer.text


def payloads(path: str) -> list:
    meta = {"_type": "gradio.FileData"}
    return [{"path": path, "meta": meta}, {"path": path}, path, {"path": path, "url": path, "meta": meta},
            [{"path": path, "meta": meta}], {"path": "x.png", "url": f"file://{path}", "meta": meta},
            {"path": path, "meta": meta, "is_stream": True}, {"files": [{"path": path, "meta": meta}]}]


def events(served, endpoint: str, data: list) -> str:
    """All that the server answers to a raw call."""
    joined = httpx.post(f"{served.url}/gradio_api/call/{endpoint}", json={"data": data}, timeout=60)
    if joined.status_code != 200:
        return joined.text
    identifier = joined.json()["event_id"]
    return httpx.get(f"{served.url}/gradio_api/call/{endpoint}/{identifier}", timeout=60).text


def test_payloads_that_name_files_of_the_machine_are_refused(served, scenes, tmp_path):
    picture = tmp_path / "private.png"
    Image.fromarray(scenes[0].picture.pixels).save(picture)
    before = picture.read_bytes()
    for path in (str(picture), f"../../../../../..{picture}", os.path.relpath(picture, ROOT)):
        calls = [("upload", [payload, 0.3, True]) for payload in payloads(path)]
        payload = payloads(path)[0]
        calls += [("sample", [payload]), ("teach", ["thing", payload, True, 0.3, True]), ("run", [path, "worst first"]),
                  ("example", [payload, "", 0.3, True]), ("search", ["", payload, 0.5, 6])]
        for endpoint, data in calls:
            answer = events(served, endpoint, data)
            assert "data:image" not in answer, (endpoint, data)
            assert "error" in answer or "alert" in answer, (endpoint, data, answer[:200])
    assert picture.read_bytes() == before  # uploads are deleted when they are read; this is none


def test_a_link_among_the_uploads_is_not_followed(tmp_path):
    from ovd.errors import UserError
    from ovd.web.uploads import Limits, read_upload

    uploads, outside = tmp_path / "uploads", tmp_path / "outside.png"
    uploads.mkdir()
    Image.new("RGB", (40, 40)).save(outside)
    (uploads / "link.png").symlink_to(outside)
    Image.new("RGB", (40, 40)).save(uploads / "own.png")
    assert read_upload(uploads / "own.png", uploads, Limits()).size == (40, 40)
    for path in (uploads / "link.png", outside, uploads / ".." / "outside.png", uploads, uploads / "none.png"):
        with pytest.raises(UserError):
            read_upload(path, uploads, Limits())


def test_the_server_does_not_fetch_addresses_for_visitors(served):
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0.5)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        for payload in payloads(address):
            for endpoint, data in (("upload", [payload, 0.3, True]), ("sample", [payload])):
                events(served, endpoint, data)
        with pytest.raises(TimeoutError):
            trap.accept()


def test_search_finds_the_regions_of_a_class(served, client):
    hits, notice = client.predict(served.common, [], 0.5, 6, api_name="/search")
    assert hits.count("<figure>") == 6 and "in " in notice
    assert "wrong" in said(client.predict("", [], 0.5, 6, api_name="/search"))


def test_a_run_is_shown(served, client):
    names = client.view_api(return_format="dict")["named_endpoints"]["/run"]["parameters"][0]["type"]["enum"]
    figures, notice, others, pictures, place = client.predict(names[0], "worst first", api_name="/run")
    assert "87.5" in figures and "not tested" not in notice and place == 0
    assert pictures.count("<figure>") == 4 and "Settings" in others
    pictures, _, place = client.predict(names[0], "worst first", 0, api_name="/next")
    assert pictures.count("<figure>") == 2 and place == 4
    with pytest.raises(AppError):
        client.predict("/etc", "worst first", api_name="/run")


def ovd(*words, **options):
    return subprocess.run([sys.executable, "-m", "pipelines.cli", "serve", *map(str, words)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120, **options)


@pytest.mark.parametrize(("words", "says"), [
    (["--max-upload", "many"], "--max-upload many"),
    (["--max-upload", "0"], "--max-upload 0"),
    (["--model", "a.safetensors", "configs/shapes/vild.py", "x.pth"], "give one of them"),
    (["--max-pixels", "2G"], "--max-pixels"), (["--port", "0"], "--port 0"), (["--index-clip", "x"], "--index")])
def test_mistakes_are_answered_before_anything_is_loaded(words, says):
    done = ovd(*words)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_gradio_one_line_says_what_to_install():
    code = ("import sys; sys.modules['gradio'] = None\nfrom pipelines.cli import main\n"
            "import importlib.util as u; find = u.find_spec\n"
            "u.find_spec = lambda name, *a: None if name == 'gradio' else find(name, *a)\n"
            "sys.exit(main(['serve']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == 'error: the page needs Gradio: pip install "ovd[web]"\n'


def test_a_taken_port_is_said_and_ctrl_c_ends_it(tmp_path):
    before = set(Path(tempfile.gettempdir()).glob("ovd-serve-*"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start("--host", "0.0.0.0", port=port)
    try:
        assert not server.url.endswith(f":{port}")
        assert any(f"port {port} is taken" in line for line in server.lines)
        assert any(line.startswith("warning: --host 0.0.0.0") for line in server.lines)
        uploads = set(Path(tempfile.gettempdir()).glob("ovd-serve-*")) - before
        local = server.url.replace("0.0.0.0", "127.0.0.1")
        visitor(local).predict(0, "", 0.3, True, api_name="/example")
    finally:
        status = server.stop(signal.SIGINT)
    assert status == 0 and server.lines[-1] == "ended"
    assert "Traceback" not in "\n".join(server.lines)
    assert uploads and not all(path.exists() for path in uploads)  # others may have servers too
