"""What base classes teach about added ones: they have both names and boxes, so each can play either part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ovd.fewshot.calibration import BaseRegions, Calibration, calibrate, choose_kappa
from ovd.fewshot.combination import combine, lam_of_shots
from ovd.fewshot.detection.trust import TRUSTED, NameTrust
from ovd.stores.class_heads import ClassHead


@dataclass(frozen=True, eq=False)
class BaseLessons:
    """Calibrations and weights, each found when it is first asked for.

    Attributes:
        text: The base classes by name, with the detector's background row.
        regions: Of training images.
        boxes: Makes the base classes by boxes: ``boxes(source, k)``, from images that have none of the regions.
        shots: The numbers of shots among which weights are chosen.
    """

    text: ClassHead
    regions: BaseRegions
    boxes: Callable[[str, int], ClassHead]
    shots: Sequence[int]
    _found: dict[tuple, Any] = field(default_factory=dict)

    def calibrated(self, head: ClassHead, source: str, k: int) -> ClassHead:
        """Added classes that a source made of ``k`` boxes, with scores that compare with those of classes by name."""
        return self._calibration(source, k).apply(head)

    def combined(self, text: ClassHead, boxes: ClassHead, source: str, rule: str, k: int) -> ClassHead:
        """Calibrated boxes and text as one, with the weights and then the level that serve base classes best.

        Args:
            rule: Of :func:`~ovd.fewshot.combination.combine`; or ``"trusted"``: ``"weights"``, where a name that does
                not fit the boxes counts for less (:class:`~ovd.fewshot.detection.trust.NameTrust`).
        """
        return self._calibration(source, k, rule).apply(self._combined(text, boxes, source, rule, k))

    def like(self, text: ClassHead, boxes: ClassHead, source: str, k: int) -> str | None:
        """The name of what the ``k`` boxes of one class show; None where none fits, or nothing is known of it."""
        trust = self._found.get(("trust", source, k, None))
        return None if trust is None else trust.like(text, boxes)

    @classmethod
    def of_record(cls, record: Sequence[Mapping[str, Any]]) -> "BaseLessons":
        """What :meth:`record` says, without what it was learned from: for the sources, shots and rules in it only."""
        lessons = cls(None, None, None, ())
        for one in record:
            value = {"calibration": _calibration_of, "trust": _trust_of}.get(one["of"], lambda one: float(one["value"]))
            lessons._found[one["of"], one["source"], one.get("shots"), one.get("rule")] = value(one)
        return lessons

    def shots_of(self, source: str, rule: str | None = None) -> list[int]:
        """The numbers of shots for which a calibration is known already."""
        return sorted(k for kind, known, k, how in self._found if (kind, known, how) == ("calibration", source, rule))

    def settle(self, source: str, k: int, rules: Sequence[str] = ()) -> None:
        """Find what classes of ``k`` boxes of a source need, alone and beside text by each of the rules."""
        self._calibration(source, k)
        for rule in rules:
            self._calibration(source, k, rule)

    def record(self) -> list[dict[str, Any]]:
        """All that was found, for results."""
        return [{"of": kind, "source": source, **({"shots": k} if k else {}), **({"rule": rule} if rule else {}),
                 **(vars(value) if isinstance(value, Calibration | NameTrust) else {"value": value})}
                for (kind, source, k, rule), value in self._found.items() if kind != "boxes"]

    def _calibration(self, source: str, k: int, rule: str | None = None) -> Calibration:
        def find() -> Calibration:
            head = self._boxes(source, k)
            if rule is not None:
                names = replace(self.text, background=None)
                head = self._combined(names, self.calibrated(head, source, k), source, rule, k)
            return calibrate(self.text, head, self.regions)

        return self._once(("calibration", source, k, rule), find)

    def _combined(self, text: ClassHead, boxes: ClassHead, source: str, rule: str, k: int) -> ClassHead:
        def find_kappa(rule: str) -> float:
            heads = {shots: self.calibrated(self._boxes(source, shots), source, shots) for shots in self.shots}
            return choose_kappa(self.text, heads, self.regions, rule, calibrated=True).settings["kappa"]

        if rule == "max":
            return combine(text, boxes, rule)
        sums = "weights" if rule == TRUSTED else rule
        lam = lam_of_shots(k, self._once(("kappa", source, None, sums), lambda: find_kappa(sums)))
        if rule != TRUSTED:
            return combine(text, boxes, rule, lam=lam)
        trust = self._once(("trust", source, k, None), lambda: NameTrust.learn(self.text, self._boxes(source, k)))
        return combine(text, boxes, sums, lam=trust.weights(text, boxes, lam))

    def _boxes(self, source: str, k: int) -> ClassHead:
        return self._once(("boxes", source, k, None), lambda: self.boxes(source, k))

    def _once(self, key: tuple, find: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


def _calibration_of(one: Mapping[str, Any]) -> Calibration:
    return Calibration(*(float(one[key]) for key in ("gain", "offset", "loss_before", "loss_after")))


def _trust_of(one: Mapping[str, Any]) -> NameTrust:
    return NameTrust(float(one["slope"]), float(one["threshold"]))
