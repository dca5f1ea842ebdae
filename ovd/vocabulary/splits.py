"""Splits: which classes are base (trained on), which are novel (named only at test time), and their labels."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ovd.errors import UserError, nearest
from ovd.vocabulary.classes import (
    COCO_NAMES,
    LVIS_NAMES,
    LVIS_V1,
    OBJECTS365_V1_NAMES,
    OBJECTS365_V2_NAMES,
    VOC_NAMES,
    canonical,
)


@dataclass(frozen=True)
class Split:
    """Base and novel classes of a dataset, in label order: bases first, so that novel labels are one slice.

    ``excluded`` classes are neither: their annotations are dropped. ``groups`` names further sets of classes that are
    reported apart (for instance kinds of novel classes).
    """

    name: str
    dataset: str
    base: tuple[str, ...]
    novel: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    _labels: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for key in ("base", "novel", "excluded"):
            object.__setattr__(self, key, _names(getattr(self, key), f"split {self.name}: {key!r}"))
        if not isinstance(self.groups, dict):
            raise UserError(f"split {self.name}: 'groups' must map group names to lists of class names")
        groups = {key: _names(names, f"split {self.name}: group {key!r}") for key, names in self.groups.items()}
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "_labels", {canonical(name): label for label, name in enumerate(self.classes)})
        self._check()

    def _check(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.+-]+", self.name):
            raise UserError(f"split name {self.name!r} goes into file names: use letters, digits and . _ + -")
        if not self.classes:
            raise UserError(f"split {self.name}: the vocabulary is empty; give 'base' or 'novel' at least one class")
        seen: dict[str, str] = {}
        for key in ("base", "novel", "excluded"):
            for name in getattr(self, key):
                if first := seen.get(canonical(name)):
                    where = f"twice in {key}" if first == key else f"in {first} and in {key}"
                    raise UserError(f"split {self.name}: class {name!r} is {where}; list every class once")
                seen[canonical(name)] = key
        for group, names in self.groups.items():
            if group in ("base", "novel", "all"):
                raise UserError(f"split {self.name}: the group name {group!r} is taken; choose another")
            for name in names:
                if canonical(name) not in self._labels:
                    hint = nearest(name, self.classes)
                    raise UserError(f"split {self.name}: group {group!r} has the unknown class {name!r}{hint}")

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes; the position of a class is its label, and its category id in rewritten annotation files."""
        return self.base + self.novel

    @property
    def num_base(self) -> int:
        """Number of base classes: labels below it are base, the others novel."""
        return len(self.base)

    def label(self, name: str) -> int:
        """Label of the class ``name``; UserError with the nearest names where there is none."""
        try:
            return self._labels[canonical(name)]
        except KeyError:
            raise UserError(f"split {self.name} has no class {name!r}{nearest(name, self.classes)}") from None

    def __contains__(self, name: str) -> bool:
        return canonical(name) in self._labels

    def all_groups(self) -> dict[str, list[int]]:
        """Labels of every group that is reported, in order: base, novel, ``groups``, all. A group may be empty."""
        named = {group: [self.label(name) for name in names] for group, names in self.groups.items()}
        labels = list(range(len(self.classes)))
        return {"base": labels[: self.num_base], "novel": labels[self.num_base :], **named, "all": labels}

    def to_json(self) -> dict:
        """The split as a json object; the inverse of :meth:`from_json`."""
        fields = asdict(self)
        del fields["_labels"]
        return fields

    @classmethod
    def from_json(cls, value: object, name: str = "custom") -> "Split":
        """A split from a json object with ``base`` and/or ``novel``, and optionally the other fields."""
        known = ("name", "dataset", "base", "novel", "excluded", "groups")
        if not isinstance(value, dict):
            raise UserError(f"a split must be a json object with the keys {', '.join(known)}")
        for key in value:
            if key not in known:
                raise UserError(f"a split has no key {key!r}{nearest(key, known)}")
        return cls(**{"name": name, "dataset": "custom", "base": (), **value})

    def save(self, path: str | Path) -> None:
        """Write the split as json."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Split":
        """Read a split: a json object as :meth:`save` writes it, or a ``.txt`` list of names (all base), one a line."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the split file {path}: {error}") from None
        try:
            if path.suffix == ".txt":
                names = [line.strip() for line in text.splitlines()]
                return cls(path.stem, "custom", base=tuple(name for name in names if name))
            return cls.from_json(json.loads(text), name=path.stem)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not a json file: {error}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def _names(names: Iterable[str], where: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UserError(f"{where} must be a list of class names, not {names!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where}: {name!r} is not a class name")
    return names


# Bansal et al., "Zero-Shot Object Detection", as used through OVR-CNN; 15 classes are in neither group.
_NOVEL_17 = (
    "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup", "knife",
    "cake", "couch", "keyboard", "sink", "scissors",
)  # fmt: skip
_EXCLUDED_15 = (
    "traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "potted plant", "dining table", "cell phone", "teddy bear", "hair drier",
)  # fmt: skip
# Rahman et al., "Improved Visual-Semantic Alignment for Zero-Shot Object Detection".
_NOVEL_15 = (
    "airplane", "train", "parking meter", "cat", "bear", "suitcase", "frisbee", "snowboard", "fork", "sandwich",
    "hot dog", "toilet", "mouse", "toaster", "hair drier",
)  # fmt: skip
# The 20 classes of PASCAL VOC by COCO's names: TFA's novel classes (Wang et al., "Frustratingly Simple Few-Shot Object
# Detection"), and those of the works that compare with it.
_NOVEL_20 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse",
    "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
)  # fmt: skip
# Kang et al., "Few-shot Object Detection via Feature Reweighting"; TFA uses the same.
_VOC_NOVEL = (
    ("bird", "bus", "cow", "motorbike", "sofa"),
    ("aeroplane", "bottle", "cow", "horse", "sofa"),
    ("boat", "cat", "motorbike", "sheep", "sofa"),
)


def _without(names: tuple[str, ...], *others: tuple[str, ...]) -> tuple[str, ...]:
    left_out = {name for group in others for name in group}
    return tuple(name for name in names if name not in left_out)


def _lvis(frequencies: str) -> tuple[str, ...]:
    return tuple(category.name for category in LVIS_V1 if category.frequency in frequencies)


# Within every group, classes keep the order of the official category list.
SPLITS: dict[str, Split] = {
    split.name: split
    for split in (
        Split("48_17", "coco", _without(COCO_NAMES, _NOVEL_17, _EXCLUDED_15), _NOVEL_17, _EXCLUDED_15),
        Split("65_15", "coco", _without(COCO_NAMES, _NOVEL_15), _NOVEL_15),
        Split("60_20", "coco", _without(COCO_NAMES, _NOVEL_20), _NOVEL_20),
        Split("coco", "coco", COCO_NAMES),
        Split("866_337", "lvis_v1", _lvis("cf"), _lvis("r")),
        Split("lvis_v1", "lvis_v1", LVIS_NAMES),
        *(
            Split(f"voc_split{i}", "voc", _without(VOC_NAMES, novel), novel)
            for i, novel in enumerate(_VOC_NOVEL, start=1)
        ),
        # targets of a transfer: a detector trained elsewhere is asked for them, so that none counts as base
        Split("voc", "voc", (), VOC_NAMES),
        Split("coco_transfer", "coco", (), COCO_NAMES),
        Split("objects365_v1", "objects365_v1", (), OBJECTS365_V1_NAMES),
        Split("objects365_v2", "objects365_v2", (), OBJECTS365_V2_NAMES),
    )
}


def get_split(name_or_path: str | Path, root: str | Path = ".") -> Split:
    """A split by name, or from a ``.json`` or ``.txt`` file (any user's list) given as a path.

    A relative path is looked for as it is, then under ``root`` (the data folder).

    >>> get_split("48_17").label("airplane")
    48
    """
    text = str(name_or_path)
    if text in SPLITS:
        return SPLITS[text]
    if text.endswith((".json", ".txt")):
        for path in (Path(text), Path(root) / text):
            if path.is_file():
                return Split.load(path)
        raise UserError(f"split file {text} does not exist")
    raise UserError(f"no split named {text!r}{nearest(text, SPLITS)}; or give a .json or .txt file of your own")
