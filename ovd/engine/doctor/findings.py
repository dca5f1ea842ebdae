"""One thing that was looked at."""

from dataclasses import asdict, dataclass, field
from typing import Any

STATES = ("ok", "note", "missing", "broken")


@dataclass
class Finding:
    """What was found.

    Attributes:
        name: what was looked at.
        text: what it is like, in a line.
        state: ``ok``, ``note`` (deserves a look), ``missing`` or ``broken``.
        remedy: a command, or what to do.
        facts: the same for a program; plain json.
    """

    name: str
    text: str
    state: str = "ok"
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_bad(self) -> bool:
        """Whether it is missing or broken."""
        return self.state in ("missing", "broken")

    def to_json(self) -> dict[str, Any]:
        """As plain json."""
        return asdict(self)


def size(number: float) -> str:
    """Bytes for people: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit in ("bytes", "kB") or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def short(digest: str | None) -> str:
    """The beginning of a fingerprint."""
    return (digest or "none").removeprefix("sha256:")[:12]
