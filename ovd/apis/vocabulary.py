"""A vocabulary: the classes that compete with each other, those that were put beside them, and silent rivals."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from ovd.apis.words import Words
from ovd.errors import UserError, nearest
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes, spelling
from ovd.vocabulary.prompts import check_names


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Classes in the order of their labels; never changed, only replaced.

    Attributes:
        chosen: Classes that compete with each other; None for none.
        added: Classes that do not compete with each other; None for none.
        silent: Classes that compete with all of these and are not reported themselves. None of them competes with a
            class of its own name.
        alike: Added class -> the silent one that is the same thing under another name. The two do not compete.
    """

    chosen: ClassHead | None = None
    added: ClassHead | None = None
    silent: ClassHead | None = None
    alike: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The chosen classes, then the added ones."""
        return (() if self.chosen is None else self.chosen.names) + self.added_names

    @property
    def added_names(self) -> tuple[str, ...]:
        """The added classes."""
        return () if self.added is None else self.added.names

    @property
    def rivals(self) -> dict[str, str]:
        """The silent classes that count, those of no chosen class's name: how the head calls each, and its name."""
        mine = set() if self.chosen is None else set(map(spelling, self.chosen.names))
        names = () if self.silent is None else self.silent.names
        return {f"rival: {name}": name for name in names if spelling(name) not in mine}

    def head(self) -> ClassHead | None:
        """All classes as one head without background, rivals last; None where nothing is to be reported."""
        if not self.names:
            return None
        heads = [head for head in (self.chosen, self.added) if head is not None]
        if rivals := self.rivals:
            heads.append(replace(self.silent.select(rivals.values()), names=tuple(rivals)))
        return reduce(ClassHead.concat, [replace(head, background=None) for head in heads])

    def known(self, name: str) -> str | None:
        """The class of this name, in whichever spelling."""
        return next((known for known in self.names if spelling(known) == spelling(name)), None)

    def plus(self, head: ClassHead, alike: str | None = None) -> "Vocabulary":
        """With an added class more, and the silent one that is the same thing."""
        head = replace(head, background=None)
        return replace(self, added=head if self.added is None else self.added.concat(head),
                       alike={**self.alike, **({} if alike is None else dict.fromkeys(head.names, alike))})

    def without(self, name: str) -> "Vocabulary":
        """Less a class that is there."""
        part = "added" if name in self.added_names else "chosen"
        head = getattr(self, part)
        return replace(self, alike={other: same for other, same in self.alike.items() if other != name},
                       **{part: head.remove([name]) if len(head) > 1 else None})


def read_vocabulary(classes: Sequence[str] | ClassHead | str | os.PathLike, own: ClassHead | None,
                    words: Words | None) -> ClassHead | None:
    """The head of names, of a file or a registry, or as it is; None for an empty list of names.

    Args:
        own: The model's own classes, whose rows are taken where a name is one of theirs.
        words: What makes rows of other names.

    Raises:
        UserError: No such file; names that repeat or are empty; names that a detector without CLIP does not know.
    """
    if isinstance(classes, ClassHead):
        return classes
    if isinstance(classes, str | os.PathLike):
        path = Path(classes)
        if not path.exists():
            raise UserError(f"{path}: no such class head file or registry; names are given as a list: "
                            f"set_vocabulary([{os.fspath(classes)!r}])")
        return load_classes(path)
    names = list(classes)
    if not names:
        return None
    check_names(names)
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(spelling(name), name)) != name:
            raise UserError(f"the classes {other!r} and {name!r} are one name; leave one out")
    return of_names(names, own, words)


def of_names(names: Sequence[str], own: ClassHead | None, words: Words | None,
             texts: Mapping[str, Sequence[str]] | None = None) -> ClassHead:
    """Rows of names: the model's own where it has them, else by words.

    Raises:
        UserError: Names that a detector without CLIP does not know.
    """
    mine = {} if own is None else {spelling(name): name for name in own.names}
    known = {name: mine[spelling(name)] for name in names if spelling(name) in mine and name not in (texts or {})}
    new = [name for name in names if name not in known]
    if new and words is None:
        raise UserError(f"this detector knows no CLIP, so it has no class {new[0]!r}{nearest(new[0], mine.values())} "
                        "Give it a ViLD, or a class head of its own space")
    head = words.head(new, texts) if new else None
    if known:
        rows = replace(own.select(known.values()), names=tuple(known), background=None)
        head = rows if head is None else head.concat(rows)
    return head.select(names)
