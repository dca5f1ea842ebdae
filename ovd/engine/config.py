"""Configs: loading, overriding from the command line, moving to another data root.

A config is a plain Python file (``with read_base(): from ... import *``, types as classes). What a user may get wrong
(a missing file, an unknown key, a bad value) raises :class:`~ovd.errors.UserError` with the nearest names.
"""

import ast
import copy
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from ovd.errors import UserError, nearest
from ovd.shipped import CONFIGS, located, shown

# Sections that the Runner reads itself. Every other top-level name of a config is a variable: overriding it also
# replaces what the config built from it.
RUNNER_SECTIONS = frozenset(inspect.signature(Runner.__init__).parameters) - {"self"}


def load_config(path: str | os.PathLike, options: Iterable[str] | Mapping[str, Any] = (),
                data_root: str | os.PathLike | None = None, work_dir: str | os.PathLike | None = None) -> Config:
    """Load a config and apply what the command line says.

    Args:
        path: the config file.
        options: ``["a.b=c", ...]`` as after ``--cfg-options``, or a mapping of dotted keys to values; see
            :func:`override`.
        data_root: replaces the config's ``data_root`` wherever it occurs, also as the beginning of a path.
        work_dir: where the run's files go; by default the config's own, else ``work_dirs/<config stem>``.

    Raises:
        UserError: a missing or broken config file, an unknown key.
    """
    path = located(path)
    if not path.is_file():
        folders = {path.parent, CONFIGS.parent / path.parent}
        siblings = sorted({str(shown(file)) for folder in folders for file in folder.glob("*.py")})
        raise UserError(f"{path}: no such config" + (nearest(str(path), siblings) if siblings else
                                                     f"; the project's own are in {shown(CONFIGS)}"))
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise UserError(f"{path}: not a valid config: {_one_line(error)}") from error
    except Exception as error:  # whatever the code of the config raises
        raise UserError(f"{path}: cannot be loaded: {type(error).__name__}: {_one_line(error)}") from error
    if data_root is not None:
        set_data_root(cfg, data_root)
    for key, value in (options if isinstance(options, Mapping) else parse_options(options)).items():
        override(cfg, key, value)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("work_dirs") / path.stem)
    return cfg


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """``["a.b=1", "c=[x,y]"]`` -> ``{"a.b": 1, "c": ["x", "y"]}``; values as in Python, bare words are strings."""
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.strip("+ "):
            raise UserError(f"--cfg-options: {option!r} is not KEY=VALUE")
        parsed[key.strip()] = _value(value.strip())
    return parsed


def override(cfg: Config, key: str, value: Any) -> None:
    """Set ``key`` (dotted; integers index lists) of ``cfg`` to ``value``, in place.

    A key must exist in the config, or be an argument of the class that the section builds. ``+key`` adds a new one.
    Overriding a variable (a top-level name such as ``class_head`` or ``train_pipeline`` that is not a section of the
    runner) also replaces the copies of its old value in the rest of the config.

    Raises:
        UserError: an unknown key, with the nearest known ones.
    """
    new, path = key.startswith("+"), key.lstrip("+").split(".")
    top = path[0]
    before = copy.deepcopy(cfg.get(top))
    node: Any = cfg
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        where = ".".join(path[:depth]) or "the config"
        if isinstance(node, list | tuple):
            index = _index(node, part, where, key)
            if last:
                _set_item(cfg, path[:depth], node, index, value)
            else:
                node = node[index]
            continue
        if not isinstance(node, Config | ConfigDict | dict):
            raise UserError(f"--cfg-options {key}: {where} is a value ({node!r}), not a section")
        if part not in node and not new:
            known = [*node, *_arguments(node.get("type"))]
            if part not in known:
                raise UserError(f"--cfg-options {key}: {where} has no key {part!r}{nearest(part, known)} "
                                f"(write +{key}=... to add it)")
        if last:
            if isinstance(node.get(part), dict) and not isinstance(value, dict | None):
                raise UserError(f"--cfg-options {key}: is a section, not a value; it has {', '.join(node[part])}")
            node[part] = value
        else:
            if part not in node:
                node[part] = ConfigDict()
            node = node[part]
    if top not in RUNNER_SECTIONS and isinstance(before, str | dict | list | tuple) and before:
        _replace(cfg, before, copy.deepcopy(cfg[top]), skip=top)


def set_data_root(cfg: Config, data_root: str | os.PathLike) -> None:
    """Replace the config's ``data_root`` wherever it occurs as a value or as the beginning of a path, in place."""
    old = cfg.get("data_root")
    if not isinstance(old, str):
        raise UserError(f"--data-root: {cfg.filename} defines no data_root")
    old, new = old.rstrip("/"), str(data_root).rstrip("/") or "/"

    def moved(value: Any) -> Any:
        if isinstance(value, str) and (value.rstrip("/") == old or value.startswith(old + "/")):
            return new + value[len(old):]
        return value

    _rewrite(cfg, moved)


def walk(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every dict in ``node`` (a config, dict or list), outermost first, with its dotted path."""
    if isinstance(node, Config | dict):
        yield path, node
        for key in list(node):
            yield from walk(node.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from walk(item, f"{path}.{index}")


def resolve_types(cfg: Config) -> None:
    """Import every class that the config names, so that a wrong name is found before work is spent."""
    try:
        for _, node in walk(cfg):
            node.get("type")
    except (ImportError, AttributeError) as error:
        raise UserError(f"{cfg.filename}: {_one_line(error)}") from error


@contextmanager
def registered(cfg: Config) -> Iterator[None]:
    """While what a config names is built: UserError for a type that no registry has, with the nearest name."""
    try:
        yield
    except KeyError as error:
        found = re.search(r"['\"\s]?([\w.]+) is not in the mm\w+::\w+ registry", str(error))
        if found is None:
            raise
        from mmdet.registry import MODELS

        raise UserError(f"{cfg.filename}: no module that is loaded has a type {found[1]!r}"
                        f"{nearest(found[1], MODELS.module_dict)} (one of your own: import its class in the config)") \
            from error


def plain(cfg: Config, without: Iterable[str] = ()) -> dict:
    """The config as JSON-ready dicts (classes by their dotted names), less the top-level keys in ``without``."""
    without = set(without)

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): convert(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [convert(v) for v in value]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if inspect.isclass(value) or inspect.isfunction(value):
            return f"{value.__module__}.{value.__qualname__}"
        return str(value)

    return {key: convert(value) for key, value in sorted(cfg.to_dict().items()) if key not in without}


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if not re.search(r"\d_\d", text) or "'" in text or '"' in text:  # 48_17 is a split, not the number 4817
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass
    if len(text) > 1 and (text[0], text[-1]) in (("[", "]"), ("(", ")")):
        items = [_value(item.strip()) for item in _split(text[1:-1])]
        return items if text[0] == "[" else tuple(items)
    parts = _split(text)
    return [_value(part.strip()) for part in parts] if len(parts) > 1 else text


def _split(text: str) -> list[str]:
    """Split at the commas that are outside brackets."""
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    if text[start:].strip():
        parts.append(text[start:])
    return parts


def _index(items: list | tuple, part: str, where: str, key: str) -> int:
    if not part.lstrip("-").isdigit() or not -len(items) <= int(part) < len(items):
        raise UserError(f"--cfg-options {key}: {where} is a list of {len(items)}; {part!r} is not an index into it")
    return int(part)


def _set_item(cfg: Config, path: list[str], items: list | tuple, index: int, value: Any) -> None:
    if isinstance(items, list):
        items[index] = value
        return
    changed = list(items)
    changed[index] = value
    owner: Any = cfg
    for part in path[:-1]:
        owner = owner[int(part)] if isinstance(owner, list | tuple) else owner[part]
    owner[int(path[-1]) if isinstance(owner, list) else path[-1]] = tuple(changed)


def _arguments(kind: Any) -> list[str]:
    """Names of the arguments of a class (and of its bases' constructors, which ``**kwargs`` passes on to)."""
    if not inspect.isclass(kind):
        return []
    names = []
    for base in inspect.getmro(kind):
        if "__init__" in vars(base) and base is not object:
            names += [n for n, p in inspect.signature(base.__init__).parameters.items()
                      if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return names


def _replace(cfg: Config, old: Any, new: Any, skip: str) -> None:
    def replaced(value: Any) -> Any:
        return copy.deepcopy(new) if type(value) is type(old) and value == old else value

    for key in list(cfg):
        if key != skip:
            _rewrite_item(cfg, key, replaced)


def _rewrite(node: Any, function: Any) -> None:
    for key in list(node) if isinstance(node, Config | dict) else range(len(node)):
        _rewrite_item(node, key, function)


def _rewrite_item(node: Any, key: Any, function: Any) -> None:
    value = node[key]
    changed = function(value)
    if changed is not value:
        node[key] = changed
    elif isinstance(value, tuple):
        items = list(value)
        _rewrite(items, function)
        if any(a is not b for a, b in zip(items, value)):
            node[key] = tuple(items)
    elif isinstance(value, Config | dict | list):
        _rewrite(value, function)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
