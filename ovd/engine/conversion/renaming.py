"""Renaming by pairs of templates, in both directions.

A template is a name with fields in braces: ``"res{l+1}.{b}.conv{i}.norm.{stat}"``. Fields are numbers, written with an
offset where the two sides count from different values, except those of ``WORDS``. A pair of templates with the same
fields is a bijection between the names that fit the one and the names that fit the other.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

WORDS = {
    "w": "weight|bias",
    "stat": "weight|bias|running_mean|running_var|num_batches_tracked",
    "norm": "bn|gn",
    "branch": "cls|reg",
    "level": "block|global",
    "loss": "distillation|relation|classification",
}
_NUMBER = r"0|[1-9]\d*"
_FIELD = re.compile(r"\{(\w+?)(?:\+(\d+))?\}")


@dataclass(frozen=True)
class Rule:
    """A pair of templates: the ``theirs`` of a layout and the ``ours`` of this project."""

    theirs: str
    ours: str

    def to_ours(self, name: str) -> str | None:
        """Our name of the tensor that the layout calls ``name``; None if the rule is not about it."""
        return _translate(name, self._theirs, self._ours)

    def to_theirs(self, name: str) -> str | None:
        """The inverse of :meth:`to_ours`."""
        return _translate(name, self._ours, self._theirs)

    @cached_property
    def _theirs(self) -> "_Template":
        return _Template.parse(self.theirs)

    @cached_property
    def _ours(self) -> "_Template":
        return _Template.parse(self.ours)


@dataclass(frozen=True)
class _Template:
    pattern: re.Pattern
    text: str  # for str.format
    offsets: dict[str, int]

    @classmethod
    def parse(cls, template: str) -> "_Template":
        pattern, text, offsets, end = "", "", {}, 0
        for field in _FIELD.finditer(template):
            name = field[1]
            offsets[name] = int(field[2] or 0)
            pattern += re.escape(template[end:field.start()]) + f"(?P<{name}>{WORDS.get(name, _NUMBER)})"
            text += template[end:field.start()] + "{" + name + "}"
            end = field.end()
        return cls(re.compile(pattern + re.escape(template[end:])), text + template[end:], offsets)


def _translate(name: str, source: _Template, target: _Template) -> str | None:
    match = source.pattern.fullmatch(name)
    if match is None:
        return None
    values = {}
    for field, value in match.groupdict().items():
        if field not in WORDS:
            value = int(value) - source.offsets[field] + target.offsets[field]
            if value < target.offsets[field]:
                return None
        values[field] = value
    return target.text.format(**values)


def same(templates: Iterable[str], prefix: str = "") -> tuple[Rule, ...]:
    """Rules of a layout that has our names, less a ``prefix`` of ours."""
    return tuple(Rule(template, prefix + template) for template in templates)


def pairs(rows: Iterable[tuple[str, str]], theirs: str = "", ours: str = "") -> tuple[Rule, ...]:
    """Rules of ``rows`` (their template, our template), each side with a prefix."""
    return tuple(Rule(theirs + row[0], ours + row[1]) for row in rows)
