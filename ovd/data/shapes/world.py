"""Which classes exist in the embedded benchmark, and which of them are novel.

A class is a pattern, a colour and a shape ("striped red star"). Novel classes are of two kinds: new combinations of
attributes that base classes have, and shapes that no base class has. Every colour and pattern occurs with many shapes,
so that colour and pattern alone do not tell a class: what is novel must be recognised to be found.
"""

from dataclasses import dataclass
from itertools import product
from random import Random

COLOURS = ("red", "green", "blue")
PATTERNS = ("plain", "striped", "dotted")
BASE_SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "crescent", "arrow", "diamond",
               "semicircle", "bolt", "tee", "frame", "chevron")
NOVEL_SHAPES = ("hourglass", "drop", "crown", "clover", "corner")

# Other words for an attribute: they make the classes' synonyms, and the captions that the small CLIP learns from.
SYNONYMS = {"plain": "solid", "striped": "stripy", "dotted": "spotted", "cross": "plus sign", "diamond": "rhombus",
            "bolt": "lightning bolt", "crescent": "moon", "ring": "hoop", "tee": "letter t", "clover": "shamrock",
            "drop": "raindrop", "corner": "letter l", "semicircle": "half disc"}

FREQUENT, COMMON, RARE = "f", "c", "r"
# How often a class is drawn in training scenes, by frequency tier. Validation scenes draw all classes alike.
TRAIN_WEIGHT = {FREQUENT: 2.0, COMMON: 1.0, RARE: 0.5}

COMBINATION, SHAPE = "novel_combination", "novel_shape"


@dataclass(frozen=True)
class ShapeClass:
    """One class of the world.

    Attributes:
        id: Category id in the annotation files, from 1, in alphabetical order of the names.
        kind: ``"base"``, ``"novel_combination"`` or ``"novel_shape"``.
        frequency: LVIS-like tier: ``"f"`` and ``"c"`` are base, ``"r"`` is novel.
    """

    id: int
    pattern: str
    colour: str
    shape: str
    kind: str
    frequency: str

    @property
    def name(self) -> str:
        return f"{self.pattern} {self.colour} {self.shape}"

    @property
    def synonyms(self) -> list[str]:
        """The name itself and the same with another word for the pattern or the shape."""
        names = [self.name]
        if self.pattern in SYNONYMS:
            names.append(f"{SYNONYMS[self.pattern]} {self.colour} {self.shape}")
        if self.shape in SYNONYMS:
            names.append(f"{self.pattern} {self.colour} {SYNONYMS[self.shape]}")
        return names


def world_classes() -> list[ShapeClass]:
    """The 102 classes by id: 72 base, 15 new combinations, 15 of new shapes. Always the same."""
    random = Random(20)
    looks = list(product(PATTERNS, COLOURS))
    drafts = []
    order = looks[:]
    random.shuffle(order)
    for index, shape in enumerate(BASE_SHAPES):
        novel = order[index % len(looks)]
        rest = [look for look in looks if look != novel]
        random.shuffle(rest)
        base_count = 5 if index < 12 else 4
        drafts.append((*novel, shape, COMBINATION, RARE))
        for position, look in enumerate(rest[:base_count]):
            drafts.append((*look, shape, "base", FREQUENT if (position + index) % 2 else COMMON))
    for index in range(3 * len(NOVEL_SHAPES)):
        drafts.append((*order[index % len(looks)], NOVEL_SHAPES[index % len(NOVEL_SHAPES)], SHAPE, RARE))
    drafts.sort(key=lambda draft: " ".join(draft[:3]))
    return [ShapeClass(i, *draft) for i, draft in enumerate(drafts, start=1)]


def world_split() -> dict:
    """The base / novel split in the format of :meth:`ovd.vocabulary.splits.Split.load`."""
    classes = world_classes()

    def of_kind(kind: str) -> list[str]:
        return [c.name for c in classes if c.kind == kind]

    combination, shape = of_kind(COMBINATION), of_kind(SHAPE)
    return {"name": "shapes", "dataset": "custom", "base": of_kind("base"), "novel": combination + shape,
            "excluded": [], "groups": {COMBINATION: combination, SHAPE: shape}}


def supervised_split() -> dict:
    """The same classes in the same order, all of them base: for the supervised upper bound, which sees every box."""
    split = world_split()
    return {**split, "name": "shapes_supervised", "base": split["base"] + split["novel"], "novel": []}
