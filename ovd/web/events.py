"""Events of the page: what goes wrong in them becomes a sentence on it."""

import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from ovd.errors import UserError
from ovd.web.uploads import Limits, Picture, read_upload, too_heavy
from ovd.web.words import notice

_FAILED = "Something went wrong here. The terminal in which ovd serve runs says what."


def guarded(answer: Callable[..., list[Any]], outputs: int, at: int = 1) -> Callable[..., list[Any]]:
    """An event's answer; where that fails, all outputs stay as they are but number ``at``, which says why."""

    @functools.wraps(answer)
    def guard(*args: Any, **options: Any) -> list[Any]:
        try:
            return answer(*args, **options)
        except UserError as error:
            said = sentence(str(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            said = _FAILED
        unchanged = [gr.skip() for _ in range(outputs)]
        unchanged[at] = notice(said, wrong=True)
        return unchanged

    return guard


def sentence(text: str) -> str:
    """An error's text with a capital letter, unless it begins with a file's name, and a full stop."""
    if text.partition(" ")[0].isalpha():
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ")")) else text + "."


def refuse(limits: Limits) -> Callable[..., list[Any]]:
    """Answers a file that was too large to be sent."""

    def answer(event: gr.EventData) -> list[Any]:
        raise UserError(too_heavy(str(event.name), int(event.bytes), limits))

    return answer


def taken(path: str | None, folder: str | Path, limits: Limits) -> Picture:
    """An uploaded picture, whose file is deleted.

    Raises:
        UserError: It cannot be read.
    """
    if not path:
        raise UserError("Choose a picture first.")
    picture = read_upload(path, folder, limits)
    Path(path).unlink(missing_ok=True)
    return picture
