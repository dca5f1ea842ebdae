"""What one visitor works with: a vocabulary, a picture, what the detector sees in it, and classes taught by boxes."""

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovd.apis import Detections, Detector
from ovd.apis.evidence import Evidence
from ovd.errors import UserError
from ovd.evaluation.pictures import class_colour
from ovd.stores.class_registry import spelling
from ovd.web.uploads import Picture

Box = tuple[float, float, float, float]
MOST_NAMES = 1500
LONGEST_NAME = 120
MOST_EXAMPLES = 50  # boxes of a class
MEMORY = 1_500_000_000  # bytes of pictures that all desks keep, and some more of what was seen in a few of them


@dataclass(frozen=True)
class Taught:
    """A class from boxes: (pixels, box x1, y1, x2, y2) each, and whether its name counts too."""

    examples: tuple[tuple[np.ndarray, Box], ...]
    by_word: bool


class Desk:
    """One visitor's. Calls from several threads follow each other.

    Args:
        detector: Shared by all; the desk has a session of it.
        looked: Told after each look at a picture, which is what memory goes to.
        method: How boxes become a class (:meth:`Detector.add_class`).
    """

    def __init__(self, detector: Detector, looked: Callable[["Desk"], None] = lambda desk: None,
                 method: str = "prototype") -> None:
        self.detector = detector.session()
        self.detector.reset_vocabulary()
        self.lock = threading.RLock()
        self.picture: Picture | None = None
        self.sample: Picture | None = None  # of the search
        self.shown = 0  # how often a picture was put here
        self.taught: dict[str, Taught] = {}
        self._slots: dict[str, int] = {}
        self._evidence: Evidence | None = None
        self._looked, self._method = looked, method

    @property
    def colours(self) -> dict[str, tuple[int, int, int]]:
        """The RGB colour of each class, which it keeps while it is here; few classes have very different ones."""
        names = self.detector.names
        self._slots = {name: slot for name, slot in self._slots.items() if name in names}
        free = (slot for slot in itertools.count() if slot not in set(self._slots.values()))
        for name in names:
            if name not in self._slots:
                self._slots[name] = next(free)
        return {name: class_colour(self._slots[name]) for name in names}

    @property
    def words(self) -> list[str]:
        """The classes that are not taught by boxes."""
        return [name for name in self.detector.names if name not in self.taught]

    def show(self, picture: Picture) -> None:
        """Work on another picture."""
        with self.lock:
            self.picture, self._evidence = picture, None
            self.shown += 1

    def forget(self) -> None:
        """Give the memory back that a look at the picture takes; the next one looks again."""
        self._evidence = None

    def choose(self, names: Sequence[str]) -> None:
        """Look for these classes, and those that were taught; no names stand for the model's own.

        Raises:
            UserError: Names that repeat, too many of them; the vocabulary stays.
        """
        names = list(names)
        if len(names) > MOST_NAMES:
            raise UserError(f"{len(names)} classes are too many for this page; the most is {MOST_NAMES}.")
        if long := next((name for name in names if len(name) > LONGEST_NAME), None):
            raise UserError(f"“{long[:40]}…” is too long for a name. Put a comma or a new line between names.")
        with self.lock:
            known = {spelling(name) for name in self.taught}
            names = [name for name in names if spelling(name) not in known]
            if names == self.words:
                return
            other = self.detector.session()
            if names or known:
                other.set_vocabulary(names)
            else:
                other.reset_vocabulary()
            for name, taught in self.taught.items():
                other.add_class(name, None if taught.by_word else False, taught.examples, method=self._method)
            self.detector = other

    def teach(self, name: str, boxes: Sequence[Box], by_word: bool = True) -> int:
        """Make a class of boxes of the current picture, or add them to those that the class has already.

        Args:
            boxes: x1, y1, x2, y2 as fractions of the picture's width and height.

        Returns:
            How many boxes it has now.

        Raises:
            UserError: No name, no box, no picture.
        """
        name = " ".join(name.split())
        if self.picture is None:
            raise UserError("Choose a picture first.")
        if not boxes:
            raise UserError("Draw a box around an example on the picture first.")
        if not name:
            raise UserError("Give the new class a name.")
        if len(name) > LONGEST_NAME:
            raise UserError(f"“{name[:40]}…” is too long for a name.")
        with self.lock:
            known = self.detector_name(name)
            before = self.taught.get(known, Taught((), by_word))
            examples = before.examples + tuple((self.picture.pixels, box) for box in map(self._pixels, boxes))
            if len(examples) > MOST_EXAMPLES:
                raise UserError(f"{name} has {len(before.examples)} boxes already; the most is {MOST_EXAMPLES}.")
            other = self.detector.session()
            if known is not None:
                other.remove_class(known)
            other.add_class(name, None if by_word else False, examples, method=self._method)
            self.detector = other
            self.taught.pop(known, None)
            self.taught[name] = Taught(examples, by_word)
            return len(examples)

    def remove(self, name: str) -> None:
        """Take a class away.

        Raises:
            UserError: There is no such class.
        """
        with self.lock:
            self.detector.remove_class(name)
            self.taught.pop(name, None)

    @property
    def memory(self) -> int:
        """Bytes of the pictures that are kept: those that are looked at, and those with example boxes."""
        kept = {id(pixels): pixels for taught in tuple(self.taught.values()) for pixels, _ in taught.examples}
        for picture in (self.picture, self.sample):
            if picture is not None:
                kept[id(picture.pixels)] = picture.pixels
        return sum(pixels.nbytes for pixels in kept.values())

    def detector_name(self, name: str) -> str | None:
        """The class of this name, in whichever spelling."""
        return next((known for known in self.detector.names if spelling(known) == spelling(name)), None)

    def found(self, threshold: float, masks: bool = True) -> Detections:
        """What is in the picture; the network runs once for a picture, whatever the threshold and the classes.

        Raises:
            UserError: There is no picture.
        """
        with self.lock:
            if self.picture is None:
                raise UserError("Choose a picture first.")
            evidence = self._evidence
            if evidence is None:
                evidence = self._evidence = self.detector.look(self.picture.pixels)
            self._looked(self)
            found = self.detector.name(evidence, threshold, masks and self.detector.has_masks)
            return replace(found, colours=tuple(self.colours[name] for name in found.classes))

    def _pixels(self, box: Sequence[float]) -> Box:
        height, width = self.picture.pixels.shape[:2]
        x1, y1, x2, y2 = (min(max(float(value), 0.0), 1.0) for value in box)
        x1, x2, y1, y2 = x1 * width, x2 * width, y1 * height, y2 * height
        if x2 - x1 < 2 or y2 - y1 < 2:
            raise UserError("This box is too small. Draw it around the whole thing.")
        return x1, y1, x2, y2


def knows_words(detector: Detector) -> bool:
    """Whether it makes classes of words; what it needs for that is loaded by then."""
    try:
        detector.session().set_vocabulary(["a word that no model has as a class"])
    except UserError:
        return False
    return True


class Desks:
    """The desks of all visitors, bounded in number and in memory.

    Args:
        detector: Shared by all.
        most: Desks that are kept; beyond them the one that was idle longest is cleared.
        idle: Seconds after which a desk is cleared.
        looked_at: Pictures whose evidence is kept; others are looked at again when they are needed.
        memory: Bytes of pictures that desks keep; beyond them, too, the one that was idle longest is cleared.
        clock: Seconds, never going back.
        method: How boxes become a class.
    """

    def __init__(self, detector: Detector, most: int = 100, idle: float = 3600.0, looked_at: int = 8,
                 memory: int = MEMORY, clock: Callable[[], float] = time.monotonic, method: str = "prototype") -> None:
        self._detector, self._most, self._idle, self._looked_at = detector, most, idle, looked_at
        self._memory, self._clock, self._method = memory, clock, method
        self._desks: OrderedDict[str, tuple[Desk, float]] = OrderedDict()
        self._looks: OrderedDict[int, Desk] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._desks)

    def of(self, visitor: str | None) -> Desk:
        """A visitor's desk, a clean one at the first visit; one of no name is not kept."""
        if not visitor:
            return Desk(self._detector, method=self._method)
        with self._lock:
            now = self._clock()
            desk = self._desks.pop(visitor, (None, 0.0))[0]
            desk = Desk(self._detector, self._keep_look, self._method) if desk is None else desk
            self._desks[visitor] = desk, now
            while len(self._desks) > 1:
                oldest, (idler, last) = next(iter(self._desks.items()))
                memory = sum(kept.memory for kept, _ in self._desks.values())
                if len(self._desks) <= self._most and memory <= self._memory and now - last <= self._idle:
                    break
                self._clear(oldest, idler)
            return desk

    def leave(self, visitor: str | None) -> None:
        """A visitor has gone."""
        with self._lock:
            if visitor in self._desks:
                self._clear(visitor, self._desks[visitor][0])

    def _clear(self, visitor: str, desk: Desk) -> None:
        self._desks.pop(visitor)
        self._looks.pop(id(desk), None)

    def _keep_look(self, desk: Desk) -> None:
        with self._lock:
            self._looks.pop(id(desk), None)
            self._looks[id(desk)] = desk
            while len(self._looks) > self._looked_at:
                self._looks.popitem(last=False)[1].forget()
