"""What became of every tensor of a conversion."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ovd.errors import UserError

SHOWN = 4


@dataclass
class ConversionReport:
    """Names by what became of them; a tensor of the source is in exactly one of the first four.

    Attributes:
        source, target: files.
        layouts: key layouts of both.
        matched: source's name -> target's names, nearly always one, of the tensors that were converted.
        unexpected: the source's names that no rule is about, or that have no place in the target.
        left_out: the source's name -> why it has no place anywhere else; these are no loss.
        shape_errors: the source's name -> what is wrong with its shape.
        missing: the target's names that the source has nothing for.
        filled: the target's names that were set to what they are in every such file (counters to 0).
        backbone: what the backbone is, in words.
        convention: style and image format, as :meth:`~ovd.engine.conversion.conventions.Convention.record` gives them.
        notes: what a user must see to.
    """

    source: str
    target: str
    layouts: tuple[str, str]
    matched: dict[str, list[str]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    shape_errors: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    backbone: str = ""
    convention: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether everything that ought to be converted was."""
        return bool(self.matched) and not (self.unexpected or self.shape_errors or self.missing)

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors became what."""
        return {name: len(getattr(self, name))
                for name in ("matched", "left_out", "filled", "missing", "unexpected", "shape_errors")}

    def to_json(self) -> dict[str, Any]:
        """All of it, with the counts, for a json file."""
        return {**asdict(self), "counts": self.counts, "whole": self.is_whole}

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.layouts[0]}) -> {self.target} ({self.layouts[1]})",
                 f"  matched      {len(self.matched)}" + (f" (backbone: {self.backbone})" if self.backbone else "")]
        for name, what in (("left_out", "left out"), ("filled", "filled"), ("missing", "missing"),
                           ("unexpected", "unexpected"), ("shape_errors", "shape errors")):
            entries = getattr(self, name)
            if entries or name not in ("left_out", "filled"):
                lines.append(f"  {what:<13}{len(entries)}{_examples(entries)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


class ConversionRefused(UserError):
    """A conversion that would lose something; ``report`` says what."""

    def __init__(self, message: str, report: ConversionReport) -> None:
        super().__init__(message)
        self.report = report


def _examples(entries: list[str] | dict[str, str]) -> str:
    if not entries:
        return ""
    if isinstance(entries, dict):
        reasons: dict[str, list[str]] = {}
        for name, why in entries.items():
            reasons.setdefault(why, []).append(name)
        return ": " + "; ".join(f"{_some(names, 2)} ({why})" for why, names in list(reasons.items())[:SHOWN])
    return ": " + _some(entries, SHOWN)


def _some(names: list[str], count: int) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
