"""Examples: those of the docstrings, and the page's blocks, which run one after the other and print what they say."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path

import pytest

import ovd.apis

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
MODULES = [f"ovd.apis.{module.name}" for module in pkgutil.iter_modules(ovd.apis.__path__)]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_public_verbs_have_examples():
    finder = doctest.DocTestFinder()
    shown = {test.name for module in MODULES for test in finder.find(importlib.import_module(module)) if test.examples}
    for name in ("detector.Detector", "detector.Detector.add_class", "detector.Detector.set_vocabulary",
                 "detector.Detector.session", "detector.Detector.look", "detections.Detections", "loading.load"):
        assert f"ovd.apis.{name}" in shown


def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5 and len(text.splitlines()) <= 100
    names: dict = {}
    printed = io.StringIO()
    for block in blocks:
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(PAGE), "exec"), names)
    said = [line.split(" # ", 1)[1].strip() for block in blocks for line in block.splitlines()
            if line.startswith("print(")]
    assert printed.getvalue().splitlines() == said
    assert {"scene_found.jpg", "scene.json"} <= {path.name for path in tmp_path.iterdir()}
