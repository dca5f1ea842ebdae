"""Annotated images for training on few shots, novel classes included."""

from dataclasses import replace

from mmdet.registry import DATASETS

from ovd.data.dataset import OpenVocabDataset
from ovd.errors import UserError
from ovd.vocabulary.splits import Split, get_split

PARTS = ("base", "novel", "all")


@DATASETS.register_module()
class FineTuningDataset(OpenVocabDataset):
    """:class:`OpenVocabDataset` where ``learn`` says which classes of the split are trained on.

    All of these count as base, and labels are positions among them; annotations of other classes are dropped. So with
    ``"all"`` label ``i`` is ``split.classes[i]`` as at test, and with ``"novel"`` 0 is the first novel class.

    Args:
        split: As there.
        learn: ``all``, ``base`` or ``novel``.
        data_root, kwargs: As there.

    Raises:
        UserError: As there; ``learn`` is none of these, or the split has no such classes.
    """

    def __init__(self, *, split: str | Split, learn: str = "all", data_root: str = "", **kwargs) -> None:
        if not isinstance(split, Split):
            split = get_split(split, data_root)
        super().__init__(split=part_of(split, learn), data_root=data_root, **kwargs)


def part_of(split: Split, learn: str) -> Split:
    """The split that has a part of the classes of ``split`` (``base``, ``novel``, ``all``), all of them as base.

    Raises:
        UserError: No such part, or an empty one.
    """
    if learn not in PARTS:
        raise UserError(f"learn={learn!r} is not one of {', '.join(PARTS)}")
    names = split.classes if learn == "all" else getattr(split, learn)
    if not names:
        raise UserError(f"split {split.name} has no {learn} classes to learn")
    left_out = tuple(name for name in split.classes if name not in set(names))
    groups = {group: members for group, members in split.groups.items() if set(members) <= set(names)}
    return replace(split, base=names, novel=(), excluded=split.excluded + left_out, groups=groups)
