"""What builds and runs the pages: docstrings as Markdown, and blocks that fail when they should."""

import sys
from pathlib import Path

import pytest
from page_blocks import blocks, inside, is_run, run_page

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "building"))
import prose
import python_pages


def test_examples_lists_and_sessions_of_a_docstring_are_kept_apart():
    text = ("Does *this* to ``a_b`` (see :func:`~ovd.load`, docs/stores.md)::\n\n"
            "    ovd train CONFIG \\\n        --seed 1\n\n    ovd test CONFIG\n\n"
            "Then:\n\n    a = 1\n\n- ``one``: first,\n  and on\n- two\n\n>>> 1 + 1\n2\n")
    assert prose.markdown(text, up="../").split("\n\n```") == [
        "Does \\*this\\* to `a_b` (see `ovd.load`, [docs/stores.md](../stores.md)):",
        "bash\novd train CONFIG \\\n    --seed 1\n\novd test CONFIG\n```\n\nThen:",
        "text\na = 1\n```\n\n- `one`: first,\n  and on\n- two",
        "pycon\n>>> 1 + 1\n2\n```"]


def test_sections_of_a_docstring_become_tables():
    text = ("What it does.\n\nArgs:\n    first: Of ``a | b``,\n        and more.\n    second: Other.\n\n"
            "Returns:\n    It.\n\nAfter.")
    assert list(python_pages._described(text)) == [
        "What it does.\n\nAfter.",
        "| argument | |\n| --- | --- |\n| `first` | Of `a \\| b`, and more. |\n| `second` | Other. |",
        "**Returns:** It."]


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_marks_say_what_is_run(tmp_path):
    page = write(tmp_path, "```bash\nfalse\n```\n\n<!-- run -->\n```bash\ntrue\n```\n\n<!-- not run: why -->\n"
                           "```python\n1 / 0\n```\n\n<!-- before:\ntouch here\n-->\n\n<!-- file: a/b.py -->\n"
                           "```python\nfive = 5\n```\n\n```python\nx = 1\n```\n")
    assert [(block.language, is_run(block)) for block in blocks(page)] == [
        ("bash", False), ("bash", True), ("python", False), ("before", True), ("python", True), ("python", True)]
    with inside(tmp_path):
        run_page(page, tmp_path)
    assert (tmp_path / "here").exists() and (tmp_path / "a/b.py").read_text() == "five = 5\n"


@pytest.mark.parametrize("text", [
    "```python\nassert 1 == 2\n```\n",
    "<!-- run -->\n```bash\nfalse\n```\n",
    "<!-- run -->\n```bash\novd build-zsl --split nothing\n```\n",
    "```console\n$ ovd build-zsl --split nothing\nerror: something else\n```\n",
    "```console\n$ ovd --version\nerror: something else\n```\n",
    "```console\n$ ovd build-zsl --split nothing\n```\n"],
    ids=["python", "bash", "ovd", "another line", "no error", "an error that is not said"])
def test_a_page_that_is_wrong_fails(text, tmp_path):
    with inside(tmp_path), pytest.raises(AssertionError):
        run_page(write(tmp_path, text), tmp_path)
