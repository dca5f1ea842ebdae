"""The one exception that a user's mistake raises, and the hints that go with it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in the user's input is wrong: what, where (file, record) and what to do, in one line.

    Command-line tools print it as ``error: ...`` without a traceback and exit with status 2.
    """


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """A hint such as ``; did you mean 48_17?`` for an unknown ``name``, or a list of what is accepted."""
    choices = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(str(name), choices, n=count, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    shown = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return f"; known: {shown}"
