"""The commands and settings that configs and pages name are ones that the command line takes."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from ovd.engine.config import load_config
from pipelines.cli import STAGES

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
# how many words stand between a script and its config's options: number of processes, of machines, ...
SCRIPTS = {"dist_train.sh": ("train", 1, 2), "dist_train_multi.sh": ("train", 1, 5), "dist_test.sh": ("test", 2, 3),
           "dist_extract_proposals.sh": ("proposals", 2, 3)}


class Refusing(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise AssertionError(message)


def prose(path: Path) -> str:
    text = path.read_text()
    return text.split('"""')[1] if path.suffix == ".py" else text


def commands(path: Path) -> list[list[str]]:
    """Stage and arguments of every command that stands alone on its (perhaps continued) line."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", prose(path)).splitlines():
        line = line.strip().removeprefix("$ ")
        if not re.match(r"(ovd [a-z]|tools/\w+\.(py|sh) )", line) or re.search(r"\[[-A-Z]|`", line):  # notation, prose
            continue
        script, *words = shlex.split(line, comments=True)
        name = Path(script).name
        if script == "ovd":
            found.append(words)
        elif name in SCRIPTS:
            stage, kept, taken = SCRIPTS[name]
            found.append([stage, *words[:kept], *words[taken:]])
        elif name.endswith(".py"):
            stage = re.search(r"run_stage\(\"([\w-]+)\"", (ROOT / "tools" / name).read_text())
            found += [[stage[1], *words]] if stage else []
    return found


@pytest.mark.parametrize("path", [path for path in (*CONFIGS, *PAGES) if commands(path)],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_ones_that_the_command_line_takes(path):
    made = set(re.findall(r"<!-- file: (\S+) -->", path.read_text()))  # by a worked example, which tests/docs runs
    for stage, *arguments in commands(path):
        if f"pipelines/{stage}.py" in made:
            continue
        parser = Refusing()
        importlib.import_module(f"pipelines.{STAGES[stage][0]}").add_arguments(parser)
        parser.parse_args(arguments)
        for word in arguments:
            assert not word.startswith("configs/") or word in made or (ROOT / word).is_file(), word


def settings() -> dict[tuple[str, ...], Path]:
    """What stands after --cfg-options in docstrings, each with the first config that names it."""
    found: dict[tuple[str, ...], Path] = {}
    for path in CONFIGS:
        if "_base_" not in path.parts:
            for one in re.finditer(r"--cfg-options\s((?:\s*[\w.+]+=(?:\"[^\"]*\"|\S+))+)", prose(path)):
                found.setdefault(tuple(word.rstrip(".;") for word in shlex.split(one[1])), path)
    return found


@pytest.mark.parametrize(("words", "path"), settings().items(), ids=lambda value: getattr(value, "stem", None))
def test_settings_that_a_docstring_names_are_ones_of_its_config(words, path):
    load_config(path, words)
