"""The command reference: a page a stage, from the parser that the command line has."""

import argparse
import html
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import prose

from pipelines.cli import STAGES

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 86  # of the usage line, whatever the terminal's is


def pages() -> dict[str, str]:
    """Path below the docs' folder -> Markdown: an index, and a page for each stage."""
    found = {"commands/index.md": _index()}
    found.update({f"commands/{name}.md": page(name) for name in STAGES})
    return found


def page(name: str) -> str:
    """The page of one stage."""
    module_name, description = STAGES[name]
    module = importlib.import_module(f"pipelines.{module_name}")
    parser = argparse.ArgumentParser(prog=f"ovd {name}", formatter_class=_formatter)
    module.add_arguments(parser)
    about = prose.markdown(inspect.cleandoc(module.__doc__ or description), up="../")
    lines = [f"# ovd {name}", about, f"Also as `{_script(name)}`, with the same options.", *_options(parser)]
    return "\n\n".join(lines) + "\n"


def _index() -> str:
    rows = "\n".join(f"| [`ovd {name}`]({name}.md) | {description} |" for name, (_, description) in STAGES.items())
    return ("# Commands\n\n`ovd --help` lists them, `ovd STAGE --help` says what stands on these pages, which are made "
            "from the same parsers. Exit status: 0 done; 2 a mistake, said in one line that begins with `error:`; 128 "
            "and the signal's number when it was told to stop. Every one can be run again: it goes on where it was.\n\n"
            f"| command | what it does |\n| --- | --- |\n{rows}\n")


def _formatter(prog: str) -> argparse.RawDescriptionHelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=WIDTH)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    yield f"```text\n{usage}\n```"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        commands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
        rows = "".join(_row(parser, action) for action in actions
                       if action not in commands and not isinstance(action, argparse._HelpAction))
        if rows:
            title = {"positional arguments": "arguments"}.get(group.title or "", group.title or "options")
            note = f'<p>{_text(group.description)}</p>\n' if group.description else ""
            yield (f'<p class="group">{_text(title[:1].upper() + title[1:])}</p>\n{note}'
                   f'<table class="options"><tbody>\n{rows}</tbody></table>')
        for choice in commands:
            help_of = {one.dest: one.help for one in choice._choices_actions}
            for name, below in choice.choices.items():
                yield f"## {parser.prog} {name}"
                yield prose.markdown(inspect.cleandoc(below.description or help_of.get(name) or ""), up="../")
                below.formatter_class = _formatter
                yield from _options(below)


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = _formatter(parser.prog)
    name = formatter._format_action_invocation(action)
    text = formatter._expand_help(action) if action.help else ""
    return f"<tr><td><code>{html.escape(name, quote=False)}</code></td><td>{_text(text)}</td></tr>\n"


def _text(text: str) -> str:
    """Words of a help text as html; what it sets in backquotes becomes code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", html.escape(" ".join(text.split()), quote=False))


def _script(name: str) -> str:
    return next(f"tools/{path.name}" for path in sorted((ROOT / "tools").glob("*.py"))
                if f'run_stage("{name}"' in path.read_text())
