"""What the official files of COCO 2017 and LVIS v1 hold, and what must be left of them after a split.

Split figures: 48/17 and 65/15 as in the README of OpenSet-dev, 866/337 from DetPro and from the instance counts of the
LVIS categories. Crowd annotations are counted.
"""

from dataclasses import dataclass

from ovd.vocabulary.splits import SPLITS, Split


@dataclass(frozen=True)
class Counts:
    """Counts of an annotation file; None where no figure is known. ``annotated_images`` have at least one object."""

    images: int
    annotations: int
    annotated_images: int | None = None

    def differences(self, expected: "Counts") -> list[str]:
        """``["12 annotations instead of 36,781", ...]``; empty if all that is known agrees."""
        found = []
        for field, noun in (("images", "images"), ("annotations", "annotations"), ("annotated_images", "with objects")):
            mine, theirs = getattr(self, field), getattr(expected, field)
            if theirs is not None and mine != theirs:
                found.append(f"{mine:,} {noun} instead of {theirs:,}")
        return found


SOURCES: dict[tuple[str, str], Counts] = {
    ("coco", "train"): Counts(118_287, 860_001),
    ("coco", "val"): Counts(5_000, 36_781, 4_952),
    ("lvis_v1", "train"): Counts(100_170, 1_270_141, 99_388),
    ("lvis_v1", "val"): Counts(19_809, 244_707),
}

# Training files hold base annotations, validation files those of all classes of the split.
RESULTS: dict[tuple[str, str], Counts] = {
    ("48_17", "train"): Counts(118_287, 665_387, 107_761),
    ("48_17", "val"): Counts(5_000, 33_152, 4_836),
    ("65_15", "train"): Counts(118_287, 811_777, 111_338),
    ("65_15", "val"): Counts(5_000, 36_781, 4_952),
    ("866_337", "train"): Counts(100_170, 1_264_884, 99_342),
    ("866_337", "val"): Counts(19_809, 244_707),
}


def is_official(split: Split, subset: str, images: int) -> bool:
    """Whether a file of so many images is taken for the official ``"train"`` or ``"val"`` file of a built-in split."""
    source = SOURCES.get((split.dataset, subset))
    return SPLITS.get(split.name) == split and source is not None and source.images == images
