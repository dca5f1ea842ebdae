"""What is found while pictures are made: said on the console, and written on the sheets."""

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What is plainly wrong, and what deserves a look."""

    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, look_for: str) -> int:
        """Print all of it, and what to look for in the pictures; returns the exit status, 1 if something is wrong."""
        for text in self.notes:
            print(f"note: {text}")
        print(f"look for: {look_for}")
        for text in self.wrong:
            print(f"WRONG: {text}")
        return 1 if self.wrong else 0


def count(number: int, noun: str, many: str | None = None) -> str:
    """``1 box``, ``1,234 boxes``."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"
