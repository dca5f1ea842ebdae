"""The Python reference: a page of what ``ovd`` offers, read from source and docstrings without importing them."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import prose

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ovd.apis"
FIRST = ("load", "Detector", "Detections", "Detection")
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
_SECTION = re.compile(rf"^({'|'.join(_SECTIONS)}):[ ]?(.*)$")
_ENTRY = re.compile(r"^(\*{0,2}\w[\w., *]*?):\s+(.*)$", re.DOTALL)


def pages() -> dict[str, str]:
    """Path below the docs' folder -> Markdown."""
    return {"reference/python.md": page()}


def page() -> str:
    """What ``ovd`` exports: functions, and classes with their public methods."""
    package = _tree(PACKAGE)
    places = {name.asname or name.name: node.module for node in package.body if isinstance(node, ast.ImportFrom)
              for name in node.names}
    found = []
    for name in _exported(package):
        node = next(node for node in _tree(places[name]).body if getattr(node, "name", None) == name)
        found.append((isinstance(node, ast.ClassDef), name, node))
    parts = ["# Python", "All of it is in `ovd`, and imported when it is first used (`import ovd` itself takes "
             "milliseconds). Mistakes raise `ovd.errors.UserError`."]
    for is_class, name, node in sorted(found, key=lambda one: (*FIRST, one[1]).index(one[1])):
        parts += _class(name, node) if is_class else _function(f"ovd.{name}", node, "##")
    return "\n\n".join(parts) + "\n"


def _exported(package: ast.Module) -> list[str]:
    for node in package.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{PACKAGE} has no __all__")


def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def _class(name: str, node: ast.ClassDef) -> Iterator[str]:
    yield f"## ovd.{name}"
    yield from _described(ast.get_docstring(node))
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_") and ast.get_docstring(member):
            decorators = {ast.unparse(one) for one in member.decorator_list}
            if "property" in decorators:
                returns = f"{name.lower()}.{member.name} -> {ast.unparse(member.returns)}"
                yield f"### {name}.{member.name}"
                yield f"```python\n{returns}\n```"
                yield from _described(ast.get_docstring(member))
            else:
                yield from _function(f"{name}.{member.name}", member, "###")


def _function(name: str, node: ast.FunctionDef, level: str) -> Iterator[str]:
    yield f"{level} {name}"
    yield f"```python\n{_signature(name, node)}\n```"
    yield from _described(ast.get_docstring(node))


def _signature(name: str, node: ast.FunctionDef) -> str:
    """``name(parameters) -> type``, wrapped as the code is; without self."""
    words = node.args
    given = [*words.posonlyargs, *words.args]
    defaults = [None] * (len(given) - len(words.defaults)) + list(words.defaults)
    parts = [_parameter(one, default) for one, default in zip(given, defaults) if one.arg != "self"]
    if words.vararg:
        parts.append(f"*{words.vararg.arg}")
    elif words.kwonlyargs:
        parts.append("*")
    parts += [_parameter(one, default) for one, default in zip(words.kwonlyargs, words.kw_defaults)]
    if words.kwarg:
        parts.append(f"**{words.kwarg.arg}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    return f"{one.arg}{kind}" + (f"{' = ' if kind else '='}{ast.unparse(default)}" if default is not None else "")


def _described(docstring: str | None) -> Iterator[str]:
    """Markdown of a docstring: its text, then its sections, entries as tables."""
    text, sections = _split(docstring or "")
    yield prose.markdown(text, up="../")
    for title, body in sections:
        entries = _entries(body)
        if title in ("Args", "Attributes") and entries:
            rows = "\n".join(f"| `{name}` | {_cell(about)} |" for name, about in entries)
            yield f"| {'argument' if title == 'Args' else 'attribute'} | |\n| --- | --- |\n{rows}"
        elif body.strip():
            yield f"**{title}:** " + prose.inline(" ".join(body.split()), "../")


def _split(docstring: str) -> tuple[str, list[tuple[str, str]]]:
    text: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    after = False  # the sections: a blank line parts what follows from what stood before
    for line in inspect.cleandoc(docstring).splitlines():
        if start := _SECTION.match(line):
            sections.append((start[1], [start[2]] if start[2] else []))
        elif sections and (line.startswith("    ") or not line.strip()):
            sections[-1][1].append(line)
        else:
            if sections and not after:
                after = True
                text.append("")
            text.append(line)
    return "\n".join(text), [(title, textwrap.dedent("\n".join(lines))) for title, lines in sections]


def _entries(body: str) -> list[tuple[str, str]]:
    """``name: text`` entries; what is indented goes on."""
    joined = re.sub(r"\n[ ]+", " ", body.strip())
    found = [_ENTRY.match(line) for line in joined.splitlines() if line.strip()]
    return [(one[1], one[2]) for one in found] if found and all(found) else []


def _cell(text: str) -> str:
    return prose.inline(" ".join(text.split()), "../").replace("|", "\\|")
