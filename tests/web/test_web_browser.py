"""The page in a headless Chromium: words, boxes, threshold, removing, saving, search, runs, what it asks of whom."""

import json
import re

import pytest
from PIL import Image

from ovd.stores.hits import overlap
from ovd.web.scenes import SIZE, example_scenes

pytestmark = pytest.mark.web
WAIT = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def scene():
    return example_scenes(1)[0]


class Visit:
    """The page as somebody uses it."""

    def __init__(self, page, url: str):
        self.page, self.asked, self.errors = page, [], []
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)
        self.says("Found")

    def says(self, text: str, where: str = "#notice") -> None:
        self.page.locator(f"{where} .notice", has_text=text).wait_for()

    def look_for(self, words: str) -> None:
        self.page.locator("#words textarea").fill(words)
        self.page.locator("#find").click()

    def chips(self) -> list[str]:
        return self.page.locator("#classes .chip span").all_inner_texts()

    def found(self) -> list[tuple[str, float, list[float]]]:
        """The rows of the table: class, score, box."""
        rows = self.page.locator("#found tbody tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        return [(row[0].strip(), float(row[1]), [float(value) for value in row[2:6]]) for row in cells]

    def draw(self, box, picture: str = "#picture", size: int = SIZE) -> None:
        """Drag from corner to corner of a box in the picture's pixels."""
        sheet = self.page.locator(f"{picture} .sheet")
        sheet.scroll_into_view_if_needed()
        at = sheet.bounding_box()
        x1, y1, x2, y2 = (at["x" if i % 2 == 0 else "y"] + value * at["width"] / size for i, value in enumerate(box))
        mouse = self.page.mouse
        mouse.move(x1 + 1, y1 + 1)
        mouse.down()
        mouse.move((x1 + x2) / 2, (y1 + y2) / 2)
        mouse.move(x2 - 1, y2 - 1)
        mouse.up()


@pytest.fixture
def visit(served, chromium):
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    visit = Visit(context.new_page(), served.url)
    yield visit
    assert visit.errors == []
    elsewhere = [url for url in visit.asked if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url)]
    assert not elsewhere
    context.close()


def test_the_first_look_shows_an_example_with_all_its_objects(visit, scene):
    assert visit.chips() == scene.names
    assert sorted(name for name, *_ in visit.found()) == sorted(name for name, _ in scene.objects)
    shown = visit.page.locator("#picture .sheet img")
    assert shown.evaluate("image => image.complete && image.naturalWidth") == SIZE


def test_typed_words_find_the_right_boxes(visit, scene):
    first, second = scene.objects[:2]
    visit.look_for(f"{first[0]}\nzebra, {second[0]}")
    visit.page.wait_for_function("document.querySelectorAll('#classes .chip').length == 3")
    assert visit.chips() == [first[0], "zebra", second[0]]
    found = visit.found()
    assert sorted(name for name, *_ in found) == sorted([first[0], second[0]])
    for name, score, box in found:
        assert score > 0.5 and overlap(tuple(box), dict(scene.objects)[name]) > 0.5


def test_a_drawn_box_teaches_a_class_that_is_found_and_removed_again(visit, scene):
    box = max((box for _, box in scene.objects), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    visit.look_for("zebra")
    visit.says("Nothing found")
    visit.draw(box)
    assert visit.page.locator("#picture .box").count() == 1
    visit.page.locator("#by-word input").uncheck()
    visit.page.locator("#class-name input, #class-name textarea").fill("my thing")
    visit.page.locator("#add").click()
    visit.says("“my thing” is known from 1 box now")
    assert visit.chips() == ["zebra", "my thing"]
    best = max(visit.found(), key=lambda row: row[1])
    assert best[0] == "my thing" and overlap(tuple(best[2]), box) > 0.5
    assert visit.page.locator("#picture .box").count() == 0  # the drawn box has done its work
    visit.page.get_by_role("button", name="Remove my thing").click()
    visit.says("Nothing found")
    assert visit.chips() == ["zebra"]


def test_drawn_boxes_can_be_taken_back(visit):
    visit.draw((100, 100, 200, 200))
    visit.draw((250, 250, 300, 320))
    assert visit.page.locator("#picture .box").count() == 2
    visit.page.locator("#picture .box b").first.click()
    assert visit.page.locator("#picture .box").count() == 1
    visit.page.locator("#add").click()
    visit.says("Give the new class a name.")


def test_the_threshold_acts_at_once(visit):
    visit.page.get_by_role("button", name=re.compile("All 102")).click()
    visit.page.wait_for_function("document.querySelectorAll('#classes .chip').length > 50")
    slider = visit.page.locator("#threshold input[type=range]")
    counts = []
    for value in ("0.02", "0.5", "0.98"):
        slider.evaluate("(slider, value) => { slider.value = value; "
                        "slider.dispatchEvent(new Event('input', {bubbles: true})); }", value)
        visit.page.wait_for_function(
            "limit => [...document.querySelectorAll('#found tbody tr')].every(row => +row.cells[1].innerText >= limit)"
            " && (limit > 0.1 || [...document.querySelectorAll('#found tbody tr')].some("
            "row => +row.cells[1].innerText < 0.3))", arg=float(value) - 0.005)
        counts.append(len(visit.found()))
    assert counts[0] > counts[1] >= counts[2]


def test_uploads_with_sentences_for_what_cannot_be_read(visit, scene, tmp_path):
    Image.fromarray(scene.picture.pixels).save(tmp_path / "mine.png")
    (tmp_path / "notes.jpg").write_text("no picture")
    (tmp_path / "large.png").write_bytes(bytes(2_500_000))
    field = visit.page.locator("input[type=file]:has(+ #upload)")
    field.set_input_files(tmp_path / "notes.jpg")
    visit.says("notes.jpg is not a picture that can be read here")
    field.set_input_files(tmp_path / "large.png")
    visit.says("large.png has 2.5 MB; the most is 2 MB.")
    field.set_input_files(tmp_path / "mine.png")
    visit.says("Found")
    assert len(visit.found()) == len(scene.objects)


def test_what_is_found_is_saved(visit, scene, tmp_path):
    with visit.page.expect_download() as got:
        visit.page.locator("#save-json").click()
    got.value.save_as(tmp_path / "found.json")
    content = json.loads((tmp_path / "found.json").read_text())
    assert (content["width"], content["height"]) == (SIZE, SIZE) and "mask" in content["detections"][0]
    assert sorted(one["name"] for one in content["detections"]) == sorted(name for name, _ in scene.objects)
    with visit.page.expect_download() as got:
        visit.page.locator("#save-png").click()
    got.value.save_as(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").size == (SIZE, SIZE)


def test_search_by_words_and_by_a_drawn_example(visit, served):
    page = visit.page
    page.get_by_role("tab", name="Search").click()
    page.locator("#query textarea, #query input").fill(served.common)
    page.locator("#search").click()
    visit.says(f"that fit “{served.common}” best", "#search-notice")
    assert page.locator("#regions figure").count() == 24
    assert page.locator("#regions img").first.evaluate("image => image.naturalWidth") > 100
    page.locator("#sample button").first.click()
    page.locator("#sample-take").click()
    visit.says("Drag a box", "#search-notice")
    visit.draw((20, 20, 300, 300), "#sample-picture")
    page.locator("#search").click()
    visit.says("and the example", "#search-notice")


def test_a_run_is_browsed(visit):
    page = visit.page
    page.get_by_role("tab", name="Runs").click()
    page.locator("#pictures img").first.wait_for()
    assert "87.5" in page.locator("#figures .tile .value").first.inner_text()
    page.locator("#figures .filter").fill("red star")
    shown = page.locator("#figures .sortable tbody tr:visible td:first-child").all_inner_texts()
    assert shown and all("red" in name and "star" in name for name in shown)
    assert " 0 right" in page.locator("#pictures figcaption").first.inner_text()
    best = page.locator("#pictures figcaption").first.filter(has_text=", 0 not found")
    assert not best.is_visible()
    page.get_by_label("best first").check()
    best.wait_for()
    page.locator("#next").click()
    page.locator("#pictures .note", has_text="Pictures 5 to 6 of 6").wait_for()


def test_quick_clicks_are_all_answered_and_the_last_one_stays(visit):
    page = visit.page
    page.get_by_role("tab", name="Runs").click()
    first, last = (page.locator("#pictures .note", has_text=f"Pictures {which} of 6") for which in ("1 to 4", "5 to 6"))
    first.wait_for()
    for _ in range(3):
        page.get_by_label("best first").check()
        page.locator("#next").click()  # while the best ones are being drawn
        last.wait_for()
        page.wait_for_timeout(1000)
        assert last.is_visible()
        page.locator("#back").click()  # when the answer before has just come
        first.wait_for()
        page.get_by_label("worst first").check()
        page.locator("#pictures figcaption", has_text=" 0 right").first.wait_for()


def test_a_phone_in_the_dark(served, chromium, scene):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True,
                                   color_scheme="dark")
    visit = Visit(context.new_page(), served.url)
    page = visit.page
    for tab in ("Search", "Runs", "Detect"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(400)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(dark[:3]) < 60
    page.get_by_role("button", name="Draw a box").tap()
    sheet = page.locator("#picture .sheet")
    at = sheet.bounding_box()
    touch = context.new_cdp_session(page)

    def send(kind: str, *places) -> None:
        points = [{"x": at["x"] + x, "y": at["y"] + y} for x, y in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", (60, 60))
    send("touchMove", (100, 110))
    send("touchMove", (160, 180))
    send("touchEnd")
    assert page.locator("#picture .box").count() == 1
    assert not visit.errors
    context.close()
