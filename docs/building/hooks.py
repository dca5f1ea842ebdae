"""mkdocs' hooks: generated references, and one set of links that works here and where the repository is browsed.

The modules beside this one are mkdocs' too: it puts their folder on the path.

Pages in ``docs/`` link to files beside them. A link that leaves ``docs/`` leads to a page too: the READMEs are pages of
the site, any other file is shown as it stands. Names of commands (``ovd train``) lead to their reference.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import command_pages
import python_pages
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
READMES = {"README.md": "overview.md", "data/README.md": "data.md", "pretrained/README.md": "weights.md"}
_FENCE = re.compile(r"^(```.*?^```\s*?$|(?: {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_COMMAND = re.compile(r"<code>ovd\s+([a-z-]+)(\s+[a-z-]+)?</code>")
_MARK = re.compile(r"^<!-- (?:run|file: ([\w./-]+)) -->\n```(\w+)", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put the commands' pages into the navigation."""
    names = [f"commands/{name}.md" for name in command_pages.STAGES]
    for section in config.nav:
        for entries in section.values():
            for entry in entries:
                if isinstance(entry, dict) and entry.get("Commands") == "commands/":
                    entry["Commands"] = [{"All commands": "commands/index.md"}, *names]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is generated, and the files outside ``docs/`` that its pages link to."""
    for path, text in (command_pages.pages() | python_pages.pages()).items():
        files.append(File.generated(config, path, content=text))
    waiting = [path for path in files.src_uris if path.endswith(".md")]
    places = {path: f"docs/{path}" for path in waiting}
    places.update({page: path for path, page in READMES.items()})
    for path, page in READMES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for page, place in sorted(places.items()):
        text = files.get_file_from_path(page).content_string
        for link in _LINK.finditer(_FENCE.sub("", text)):
            target = _target(place, link[2])
            shown = _page(target) if target else None
            if shown and not files.get_file_from_path(shown) and (ROOT / target).is_file():
                files.append(File.generated(config, shown, content=_shown(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them; the marks of blocks that tests run become titles or nothing."""
    here = page.file.src_uri
    if here.startswith(("commands/", "reference/", "files/")):
        return markdown
    place = next((path for path, shown in READMES.items() if shown == here), f"docs/{here}")
    parts = _FENCE.split(markdown)
    for number in range(0, len(parts), 2):
        parts[number] = _LINK.sub(lambda link: _moved(link, here, place), parts[number])
    return _MARK.sub(lambda mark: f"```{mark[2]}" + (f' title="{mark[1]}"' if mark[1] else ""), "".join(parts))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Names of commands as links to their pages."""
    here = posixpath.dirname(page.url)

    def linked(name: re.Match[str]) -> str:
        if name[1] not in command_pages.STAGES or page.file.src_uri == f"commands/{name[1]}.md":
            return name[0]
        return f'<a href="{posixpath.relpath(f"commands/{name[1]}.html", here or ".")}">{name[0]}</a>'

    return re.sub(r"<a [^>]*>.*?</a>|<pre.*?</pre>|<h\d.*?</h\d>|" + _COMMAND.pattern,
                  lambda part: linked(part) if part[1] else part[0], html, flags=re.DOTALL)


def _target(place: str, link: str) -> str | None:
    """The file of the repository that a link in the file ``place`` leads to, or None for another site's."""
    if re.match(r"\w+:", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    if target.startswith(".."):
        raise PluginError(f"{place}: the link {link} leaves the project")
    return target


def _page(target: str) -> str:
    """The page (or picture) of the site that shows a file of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return READMES.get(target, f"files/{target}.md")


def _moved(link: re.Match[str], here: str, place: str) -> str:
    target = _target(place, link[2])
    if target is None:
        return link[0]
    return f"{link[1]}{posixpath.relpath(_page(target), posixpath.dirname(here) or '.')}{link[3] or ''}{link[4]}"


def _shown(path: str) -> str:
    language = {".py": "python", ".sh": "bash", ".yml": "yaml", ".json": "json"}.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text()
    return f"---\nsearch:\n  exclude: true\n---\n\n# {Path(path).name}\n\n`{path}`\n\n````{language}\n{text}\n````\n"
