"""Texts as a tree of tokens: texts that begin alike share the nodes of their beginning."""

from collections.abc import Sequence

import numpy as np


class TokenTree:
    """A node for each different beginning of the texts; it stands for the last token of the beginning.

    A tree may go on from a trunk, a tree that was made before: beginnings that the trunk has are not made again. Nodes
    are numbered from 0, those of the trunk first.

    Attributes:
        first: Number of the first node of its own: how many the trunk has.
        tokens: Of its own nodes.
        paths: For each of its own nodes the numbers of those that lead to it, from a text's first token on, and its own
            number as the last.
    """

    def __init__(self, trunk: "TokenTree | None" = None) -> None:
        self.trunk = trunk
        self.first = len(trunk) if trunk else 0
        self.tokens: list[int] = []
        self.paths: list[list[int]] = []
        self.numbers: dict[tuple[int, int], int] = {}  # by the node before it (-1: none) and its token

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> list[int]:
        """Where in a text the tokens of its own nodes stand."""
        return [len(path) - 1 for path in self.paths]

    def add(self, tokens: Sequence[int]) -> int:
        """Add a text, of one token or more; returns the row of its last node among the tree's own nodes.

        That node is never one of the trunk's, since nothing but the tree's own nodes is read.
        """
        in_trunk = self.trunk.numbers if self.trunk else {}
        path: list[int] = []
        for position, token in enumerate(tokens):
            key = (path[-1] if path else -1, token)
            if key in in_trunk and position < len(tokens) - 1:
                path = self.trunk.paths[in_trunk[key]]
                continue
            if key not in self.numbers:
                self.numbers[key] = self.first + len(self)
                self.tokens.append(token)
                self.paths.append([*path, self.numbers[key]])
            path = self.paths[self.numbers[key] - self.first]
        return path[-1] - self.first

    def visible(self) -> np.ndarray:
        """What each of its N nodes attends to, among the trunk's S and its own: its path. Bool ``[N, S + N]``."""
        found = np.zeros((len(self), self.first + len(self)), bool)
        for row, path in zip(found, self.paths):
            row[path] = True
        return found
