"""Several annotation files, each with its folder of images, as one: what shots of several sources are drawn from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace as with_fields

from ovd.data.annotations import Annotation, Annotations, Category, Image, image_path
from ovd.errors import UserError
from ovd.vocabulary.classes import canonical


@dataclass(frozen=True, eq=False)
class Source:
    """An annotation file: its checked records, its path, and the folder that its file names are relative to."""

    annotations: Annotations
    path: Path
    image_root: Path | None = None


def common_root(roots: Sequence[Path | None]) -> Path | None:
    """The deepest folder that all image folders are in, or are; None where none is given.

    Raises:
        UserError: only some sources have a folder, or nothing is common to them.
    """
    given = [root for root in roots if root is not None]
    if not given:
        return None
    if len(given) < len(roots):
        raise UserError(f"there are {len(roots)} annotation files and {len(given)} folders of images; give one folder "
                        "for each, in the same order")
    if len(set(given)) == 1:
        return given[0]
    try:
        return Path(os.path.commonpath([root.absolute() for root in given]))
    except ValueError:  # drives of Windows
        raise UserError(f"{given[0]} and {given[-1]} have no folder in common; copy the images of one") from None


def pool(sources: Sequence[Source]) -> Annotations:
    """All records, in order; file names are relative to the :func:`common_root` of the sources' folders.

    Classes are one by name and images by file: one that two files annotate is one image with both files' boxes. The
    ids of the first file stay; an id of a later one that is taken already becomes the next free one.

    Raises:
        UserError: an image that two files give two sizes.
    """
    root = common_root([source.image_root for source in sources])
    if len(sources) == 1:
        return sources[0].annotations
    pooled = _Pool()
    for source in sources:
        inside = os.path.relpath(source.image_root.absolute(), root.absolute()) if root else ""
        pooled.add(source, "" if inside == "." else inside)
    return Annotations([*pooled.images.values()], pooled.annotations, [*pooled.categories.values()])


class _Pool:
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}  # by file
        self.categories: dict[str, Category] = {}  # by canonical name
        self.annotations: list[Annotation] = []
        self._image_ids, self._category_ids, self._annotation_ids = _Ids(), _Ids(), _Ids()

    def add(self, source: Source, folder: str) -> None:
        images, categories = {}, {}
        for image in source.annotations.images:
            file = Path(folder, image_path(image, "")).as_posix()
            known = self.images.get(file)
            if known is None:
                known = with_fields(image, id=self._image_ids.take(image.id), file_name=file)
                self.images[file] = known
            elif (known.width, known.height) != (image.width, image.height):
                raise UserError(f"{source.path}: image {file} has {image.width} x {image.height} pixels, another "
                                f"annotation file says {known.width} x {known.height}; are these two images?")
            images[image.id] = known.id
        for category in source.annotations.categories:
            known = self.categories.get(canonical(category.name))
            if known is None:
                known = with_fields(category, id=self._category_ids.take(category.id))
                self.categories[canonical(category.name)] = known
            categories[category.id] = known.id
        for record in source.annotations.annotations:
            self.annotations.append(with_fields(
                record, id=self._annotation_ids.take(record.id), image_id=images[record.image_id],
                category_id=categories[record.category_id]))


class _Ids:
    """Ids as they are while free, then the next one above all that were seen."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._next = 0

    def take(self, wanted: int) -> int:
        given = self._next if wanted in self._taken else wanted
        self._taken.add(given)
        self._next = max(self._next, given + 1)
        return given
