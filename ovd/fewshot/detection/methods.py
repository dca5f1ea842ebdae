"""How a class can be added, as people write it: ``text``, ``prototype``, ``text+prototype:max``, ``codes``, ..."""

from dataclasses import dataclass

from ovd.errors import UserError, nearest
from ovd.fewshot.combination import RULES
from ovd.fewshot.detection.trust import TRUSTED
from ovd.fewshot.sources import METHODS

TEXTS = ("text", "made-up")
CODES = "codes"  # of the detector's own hypernetwork


@dataclass(frozen=True)
class Method:
    """A way to add classes.

    Attributes:
        name: As it is written: a text, a source, or ``TEXT+SOURCE:RULE``.
        text: ``"text"`` for the class's name, ``"made-up"`` for a word that means nothing, None for neither.
        source: What makes a class of k boxes: a name of ``ovd.fewshot.sources.METHODS``, or ``"codes"`` for the
            detector's hypernetwork; None for the text alone.
        rule: By which both become one.
    """

    name: str
    text: str | None = None
    source: str | None = None
    rule: str | None = None

    @classmethod
    def parse(cls, written: str) -> "Method":
        """From what people write.

        >>> Method.parse("text+prototype:max").rule
        'max'

        Raises:
            UserError: An unknown text, source or rule; two parts without a rule, or one part with one.
        """
        parts, colon, rule = written.partition(":")
        first, plus, source = parts.partition("+")
        sources = (*METHODS, CODES)
        if not plus:
            known = (*TEXTS, *sources)
            if first not in known:
                raise UserError(f"no method {first!r} to add classes{nearest(first, known)}")
            if colon:
                raise UserError(f"method {written!r}: a rule is for text and boxes together: text+{first}:{rule}")
            return cls(written, text=first) if first in TEXTS else cls(written, source=first)
        if first not in TEXTS:
            raise UserError(f"method {written!r}: {first!r} is not one of {', '.join(TEXTS)}")
        if source not in sources:
            raise UserError(f"method {written!r}: no source {source!r}{nearest(source, sources)}")
        if rule not in (known := (*RULES, TRUSTED)):
            raise UserError(f"method {written!r}: needs a rule, one of {', '.join(known)}, such as {parts}:{known[0]}")
        return cls(written, first, source, rule)

    @property
    def title(self) -> str:
        """For tables and charts."""
        if self.rule is None:
            return self.name
        return f"{self.text} + {self.source} ({self.rule})"
