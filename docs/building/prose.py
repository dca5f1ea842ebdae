"""Plain docstrings of this project as Markdown: code, examples, lists, links to pages."""

import html
import re
import textwrap
from collections.abc import Iterator

_CODE = re.compile(r"(``.+?``|:\w+(?::\w+)?:`.+?`|`[^`]+`)", re.DOTALL)
_SHELL = re.compile(r"(ovd|tools/|python|sbatch|torchrun|make|job=|pip|#)")


def markdown(text: str, up: str = "") -> str:
    """Markdown of a docstring: paragraphs, ``- `` lists, indented examples as fenced blocks.

    Args:
        text: As ``inspect.cleandoc`` leaves it.
        up: From the page to the root of the site (``"../"``), for links to ``docs/*.md``.
    """
    return "\n\n".join(_block(lines, up) for lines in _blocks(text))


def inline(text: str, up: str = "") -> str:
    """One paragraph: double backquotes and roles become code, everything else is text."""
    parts = []
    for number, part in enumerate(_CODE.split(text)):
        if number % 2:
            code = re.sub(r"^:[\w:]+:", "", part).strip("`").removeprefix("~")
            parts.append(f"`{code}`")
        else:
            plain = re.sub(r"([*_\[\]\\#])", r"\\\1", html.escape(part, quote=False))
            parts.append(re.sub(r"docs/((?:\w|\\_)+)\.md",
                                lambda one: f"[docs/{one[1]}.md]({up}{one[1].replace(chr(92), '')}.md)", plain))
    return "".join(parts)


def _blocks(text: str) -> Iterator[list[str]]:
    """Runs of lines of one kind: text, a list, an example."""
    kind, lines = "", []
    for line in text.strip("\n").splitlines():
        if not line.strip():
            new = kind if kind == "example" else ""
        elif line.startswith(">>> ") or kind == "session":
            new = "session"
        elif line.startswith("- ") or (kind == "list" and line.startswith("  ")):
            new = "list"
        elif line.startswith("  "):
            new = "example"
        else:
            new = "text"
        if new != kind and lines:
            yield lines
            lines = []
        kind = new
        if line.strip() or kind == "example":
            lines.append(line)
    if lines:
        yield lines


def _block(lines: list[str], up: str) -> str:
    if lines[0].startswith(">>> "):
        return "\n".join(["```pycon", *lines, "```"])
    if lines[0].startswith("- "):
        return inline("\n".join(lines), up)
    if lines[0].startswith("  "):
        code = textwrap.dedent("\n".join(lines)).strip("\n")
        language = "bash" if all(map(_SHELL.match, filter(str.strip, re.sub(r"\\\n\s*", "", code).splitlines()))) \
            else "text"
        return f"```{language}\n{code}\n```"
    return inline(re.sub(r"::$", ":", "\n".join(lines)), up)
