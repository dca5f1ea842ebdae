"""The config that a run left in its work directory, as plain values: nothing of it is run.

mmengine writes a config as Python: assignments of dicts, lists, numbers and text. The whole text is parsed, so that
looking at a folder that somebody sent never runs a line of it.
"""

import ast
from pathlib import Path
from typing import Any

from ovd.errors import UserError


def read_saved_config(path: Path) -> dict[str, Any]:
    """Top-level name -> value: dicts, lists, tuples, numbers, text; of anything else its source text.

    Raises:
        UserError: a file that is not Python or cannot be read.
    """
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a config that a run wrote ({error})") from error
    return {node.targets[0].id: _value(node.value) for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values) if key is not None}
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(item) for item in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
