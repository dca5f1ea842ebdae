"""The blocks of code on a documentation page, and how each is run.

What a block is, is said by its language, and by a comment above it that readers do not see:

    ```python              run, in order, with what the page's earlier blocks defined
    ```console             commands after "$ ", and lines that they must print, in order; "..." is any text
    ```bash                must parse; run where <!-- run --> stands above
    <!-- file: PATH -->    the block is written there instead
    <!-- before: ... -->   lines of bash that are run here: they make what the next block is about
    <!-- before python: ... -->  the same in Python
    <!-- not run: why -->  a block that cannot be run here; it must parse all the same
"""

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cli import main

_BLOCK = re.compile(r"^<!-- before(?P<in_python> python)?:\n(?P<before>.*?)\n-->$"
                    r"|(?:^<!-- (?P<mark>run|file: \S+|not run: [^\n]*) -->\n)?"
                    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
                    re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of a page; ``language`` is "before" for bash that readers do not see, and its mark "hidden"."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}, line {self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for one in _BLOCK.finditer(text):
        line = text.count("\n", 0, one.start()) + 1
        if one["before"] is not None:
            language = "python" if one["in_python"] else "before"
            found.append(Block(page, line, language, one["before"], "hidden"))
        else:
            found.append(Block(page, line, one["language"], one["text"], one["mark"] or ""))
    return found


def is_run(block: Block) -> bool:
    """Whether a test does more with the block than parse it."""
    if block.mark.startswith("not run"):
        return False
    return block.language in ("python", "console", "before") or bool(block.mark)


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks in a folder, which looks like the project's root.

    Raises:
        AssertionError: A command that failed, or did not print what the page says.
        Exception: What a Python block raises.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    for block in filter(is_run, blocks(page)):
        if block.mark.startswith("file: "):
            path = folder / block.mark.removeprefix("file: ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            tree = ast.parse(block.text, str(block))
            ast.increment_lineno(tree, block.line)
            exec(compile(tree, str(block), "exec"), names)
        elif block.language == "console":
            for command, expected in _said(block.text):
                _check(block, command, expected)
        else:
            for command in _commands(block.text):
                status, printed = run(command)
                assert status == 0, f"{block}: {command} ended with status {status}:\n{printed}"


def run(command: str) -> tuple[int, str]:
    """Exit status of a command and all that it printed; ``ovd`` in this process, which spares its imports."""
    if not command.startswith("ovd "):
        done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(shlex.split(command, comments=True)[1:])
        except SystemExit as stopped:
            status = stopped.code
    return status or 0, printed.getvalue()


def _commands(text: str) -> Iterator[str]:
    """Commands of a block of bash: a line each, continued ones joined; a loop is one command."""
    lines = iter(re.sub(r"\\\n\s*", " ", text).splitlines())
    for line in lines:
        if re.match(r"(for|while|if|cat) .*(do|then|<<\s*'?\w+'?.*)$", line):
            end = {"f": "done", "w": "done", "i": "fi"}.get(line[0], line.rpartition("<<")[2].split()[0].strip("'"))
            while line.splitlines()[-1] != end:
                line += "\n" + next(lines)
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _said(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands and the lines that they are to print."""
    for part in re.split(r"^\$ ", re.sub(r"\\\n\s*", " ", text), flags=re.MULTILINE)[1:]:
        command, *expected = part.rstrip().splitlines()
        yield command, expected


def _check(block: Block, command: str, expected: list[str]) -> None:
    status, printed = run(command)
    found = [line.rpartition("\r")[2].rstrip() for line in printed.splitlines()]
    wrong = any(line.startswith("error:") for line in expected)
    assert (status == 2) == wrong, f"{block}: {command} ended with status {status}:\n{printed}"
    rest = iter(found)
    for line in expected:
        wanted = re.compile(".*".join(map(re.escape, line.split("..."))))
        assert line == "..." or any(map(wanted.fullmatch, rest)), \
            f"{block}: {command} did not print\n{line}\nbut\n" + "\n".join(found)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
