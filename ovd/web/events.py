"""Events of the page: a visitor's are answered in turn, and what goes wrong in them becomes a sentence on it."""

import functools
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr

from ovd.errors import UserError
from ovd.web.uploads import Limits, Picture, read_upload, too_heavy
from ovd.web.words import notice

_turns: WeakValueDictionary[str, Any] = WeakValueDictionary()  # a visitor's lock, while one of its events has it
_turns_lock = threading.Lock()
_FAILED = "Something went wrong here. The terminal in which ovd serve runs says what."


def guarded(answer: Callable[..., list[Any]], outputs: int, at: int = 1) -> Callable[..., list[Any]]:
    """An event's answer; where that fails, all outputs stay as they are but number ``at``, which says why.

    A visitor's event waits for that visitor's event before it: else what the quicker one shows would be painted over
    with what was asked for earlier. (Before it means that Gradio began it earlier; it may swap two that come within the
    same millisecond.)

    Args:
        answer: Takes a ``gr.Request`` where its events have turns.
    """

    @functools.wraps(answer)
    def guard(*args: Any, **options: Any) -> list[Any]:
        try:
            with _turn(args):
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


def _turn(args: tuple[Any, ...]) -> AbstractContextManager[Any]:
    visitor = next((value.session_hash for value in args if isinstance(value, gr.Request)), None)
    if visitor is None:
        return nullcontext()
    with _turns_lock:
        return _turns.setdefault(visitor, threading.Lock())


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
