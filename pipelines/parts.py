"""The option ``--part I/N``: one of N jobs that share a store, such as those of an array."""

import re

from ovd.errors import UserError

HELP = ("make only the I-th of N parts of the shards, as one of N jobs that share the store; the last of them finishes "
        "it")


def read_part(text: str | None, overwrite: bool = False) -> tuple[int, int] | None:
    """``(i, n)``, 1 <= i <= n: the shards i-1, i-1+n, ... are meant; None for no ``text``.

    Raises:
        UserError: Something else, or ``overwrite`` with it.
    """
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    index, total = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= total:
        raise UserError(f"--part {text}: needs I/N with 1 <= I <= N, such as 1/16 for the first of 16 parts")
    if overwrite:
        raise UserError(f"--overwrite would remove what other parts than {text} wrote; delete the store first")
    return index, total


def shards_of_part(shards: list[int], part: tuple[int, int] | None) -> list[int]:
    """Those of ``shards`` that belong to ``part``; all without one."""
    index, total = part or (1, 1)
    return [shard for shard in shards if shard % total == index - 1]
