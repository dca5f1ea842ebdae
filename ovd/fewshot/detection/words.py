"""Words that mean nothing, to see what boxes can do where a name cannot."""

import random
from collections.abc import Sequence

_ONSETS, _VOWELS, _ENDS = (*"bdfgklmnprstvz", "bl", "dr", "fl", "gr", "kl", "pr", "st", "tr"), "aeiou", "kmnptx"


def made_up_words(count: int, seed: int = 0) -> list[str]:
    """``count`` different words of two syllables, such as "blonavik", from a seed."""
    draw = random.Random(f"made-up words {seed}")
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(2)) + draw.choice(_ENDS)
        words[word] = None
    return list(words)


def renamed(names: Sequence[str], seed: int = 0) -> dict[str, str]:
    """Class name -> a word that means nothing."""
    return dict(zip(names, made_up_words(len(names), seed)))
