"""Where a class comes from, in a few words: read out of the provenance that a class head keeps of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# of what a class is made, and the keys, or values of "source", by which a provenance says so
_SAID_BY = {"text": {"text"}, "boxes": {"boxes", "shots"}, "checkpoint": {"checkpoint", "detector"},
            "codes": {"generator", "code"}, "import": {"imported"}}


@dataclass(frozen=True)
class Origin:
    """What a class was made from.

    Attributes:
        sources: ``text``, ``boxes``, ``checkpoint``, ``codes``, ``import``; what is there of these.
        shots: How many example boxes.
    """

    sources: tuple[str, ...]
    shots: int

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> "Origin":
        """Of all that a provenance is made of (a blend has those of its parts)."""
        records = list(_records(provenance))
        shots = sum(int(record.get("shots", len(record.get("boxes", ())))) for record in records)
        said = {key for record in records for key in record} | \
            {str(record.get("source")) for record in records}
        sources = [kind for kind, keys in _SAID_BY.items() if said & keys]
        return cls(tuple(sources), shots)


def described(provenance: Mapping[str, Any]) -> str:
    """``text + 5 boxes`` and the like."""
    origin = Origin.of(provenance)
    words = {"boxes": f"{origin.shots} box{'' if origin.shots == 1 else 'es'}"}
    return " + ".join(words.get(source, source) for source in origin.sources) or "unknown"


def _records(value: Any) -> Iterator[Mapping[str, Any]]:
    """The records within a provenance, itself first."""
    if isinstance(value, Mapping):
        yield value
        for part in value.values():
            yield from _records(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _records(part)
