"""The json files that a recipe's stages write, for the stages that gather them."""

from pathlib import Path
from typing import Any

import msgspec

from ovd.errors import UserError


def read_result(path: str) -> dict[str, Any]:
    """The object in a stage's json file.

    Raises:
        UserError: No such file; a file that is no json object.
    """
    try:
        value = msgspec.json.decode(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the recipe to its end first") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not a json file ({error}); run the stage that writes it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a json object; run the stage that writes it again")
    return value
