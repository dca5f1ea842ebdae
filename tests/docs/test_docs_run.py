"""The pages' code runs, prints what they say, and names commands that there are."""

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from page_blocks import Block, blocks, inside, is_run, run, run_page

import pipelines
from ovd.fewshot.sources import METHODS
from pipelines.cli import STAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
SCRIPTS = {script.name: stage[1] for script in (ROOT / "tools").glob("*.py")
           if (stage := re.search(r'run_stage\("([\w-]+)"', script.read_text()))}
# a small world, made as the pages say: 12 training and 4 validation scenes, what the stages make of them, and the
# README's pictures
WORLD = """
ovd shapes --data-root data/shapes --train 12 --val 4 --workers 1
ovd build-zsl --split data/shapes/annotations/split.json --data-root data/shapes --train-ann instances_train.json \
    --val-ann instances_val.json
ovd class-embeddings vild --config configs/shapes/vild.py --templates "a photo of {article} {}."
ovd proposals configs/shapes/vild.py --from-annotations --subset train --out data/shapes/proposals/train
ovd embed-regions configs/shapes/vild.py --processes 1
cp data/shapes/val2017/000020000001.jpg scene.png
cp data/shapes/val2017/000020000001.jpg photo.png
""".replace("\\\n", "").strip().splitlines()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder that looks like the project's root after the first stages of a small demo."""
    folder = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pretrained", "tools"):
        (folder / name).symlink_to(ROOT / name)
    with inside(folder):
        for command in WORLD:
            status, printed = run(command)
            assert status == 0, printed
    return folder


@pytest.fixture(autouse=True)
def sources():
    """A page adds a source; tests that run after it see those of the project alone."""
    with patch.dict(METHODS):
        yield


@pytest.fixture
def project(world, tmp_path, monkeypatch) -> Path:
    """A copy of it for one page; modules that the page writes are found there."""
    folder = tmp_path / "project"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(folder / "pipelines")])
    monkeypatch.setattr("pipelines.cli.STAGES", dict(STAGES))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, blocks(page)))], ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, project):
    with inside(project):
        run_page(page, project)


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page)
                                   if block.language in ("bash", "sh", "python")], ids=str)
def test_a_block_parses(block: Block):
    if block.language == "python":
        compile(block.text, str(block), "exec")
    else:
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{block}: {done.stderr}"


def inline_commands(page: Path) -> list[str]:
    """Commands with arguments within sentences and tables; not those with notation such as [options]."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if "migration" in page.name:  # the last column is ours, the others are another project's
        prose = "\n".join(line.rstrip(" |").rpartition(" | ")[2] for line in prose.splitlines())
    found = re.findall(r"`((?:ovd [a-z]|tools/\w+\.py )[^`]*)`", prose)
    return [" ".join(words.split()) for words in found if not re.search(r"\[|\.\.\.|\.md$", words) and " " in words]


@pytest.mark.parametrize("page", [page for page in PAGES if inline_commands(page)], ids=lambda page: page.stem)
def test_commands_in_sentences_are_ones_that_the_command_line_knows(page):
    """Stage, sub-command and options are there; required ones may be missing, as sentences say only what matters."""
    for command in inline_commands(page):
        first, *words = shlex.split(command)
        stage = words.pop(0) if first == "ovd" else SCRIPTS.get(Path(first).name)
        if stage in (None, "STAGE"):
            continue
        if any(block.mark == f"file: pipelines/{stage}.py" for block in blocks(page)):  # a page that makes it
            continue
        assert stage in STAGES, f"{page.name}: {command}"
        parser = argparse.ArgumentParser()
        importlib.import_module(f"pipelines.{STAGES[stage][0]}").add_arguments(parser)
        known = options(parser, words)
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{page.name}: {command}: there is no {word}"


def options(parser: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """Options of a parser and of the sub-command that the words name."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and words:
            assert words[0] in action.choices, f"there is no {parser.prog} {words[0]}"
            found |= options(action.choices[words[0]], words[1:])
    return found
