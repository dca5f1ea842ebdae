"""Annotation files in COCO or LVIS format: typed records, read and written quickly, checked where they enter.

Masks stay the bytes of the file until somebody asks for them, so a gigabyte of polygons is neither parsed nor rebuilt.
Fields that this module does not know are kept: record types grow to fit the file (:func:`load_annotations`). To choose
and renumber the records of a file as large as LVIS's, :mod:`ovd.data.annotation_table` is quicker and smaller.
"""

import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ovd.data import annotation_checks
from ovd.data.annotation_columns import Columns
from ovd.errors import UserError
from ovd.stores.atomic import atomic_write

# Fields of the official files that nothing here looks into are kept as raw json. A field that a file does not have is
# UNSET (false in conditions), and is not written either.


class Image(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An image: ``height`` and ``width`` in pixels; ``file_name`` (COCO) or ``coco_url`` (LVIS) or both."""

    id: int
    height: int
    width: int
    file_name: str | UnsetType = UNSET
    coco_url: str | UnsetType = UNSET
    flickr_url: Raw | UnsetType = UNSET
    license: Raw | UnsetType = UNSET
    date_captured: Raw | UnsetType = UNSET
    neg_category_ids: list[int] | UnsetType = UNSET
    not_exhaustive_category_ids: list[int] | UnsetType = UNSET


class Annotation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An object: ``bbox`` is x, y, width, height and ``area`` the mask's, in pixels of the original image."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    crowd_flag: Literal[0, 1] | UnsetType = msgspec.field(default=UNSET, name="iscrowd")
    mask_json: Raw | UnsetType = msgspec.field(default=UNSET, name="segmentation")

    @property
    def iscrowd(self) -> int:
        """1 where one record outlines a crowd of objects; LVIS files, which have no crowds, lack the field."""
        return self.crowd_flag or 0

    @property
    def segmentation(self) -> Raw:
        """The mask as the json of the file; ``null`` where there is none."""
        return self.mask_json or _NULL

    def mask(self) -> list[list[float]] | dict | None:
        """Polygons (lists of x, y, x, y, ...), a run-length encoding (``counts``, ``size``), or None without a mask."""
        try:
            return msgspec.json.decode(self.segmentation, type=list[list[float]] | dict | None)
        except msgspec.DecodeError as error:
            raise UserError(
                f"annotation {self.id} of image {self.image_id}: its segmentation is neither a list of polygons nor "
                f"a run-length encoding ({error})"
            ) from None


_NULL = Raw(b"null")


class Category(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A class; the fields after ``supercategory`` are those of LVIS."""

    id: int
    name: str
    supercategory: Raw | UnsetType = UNSET
    definition: Raw | UnsetType = msgspec.field(default=UNSET, name="def")
    synset: str | UnsetType = UNSET
    synonyms: list[str] | UnsetType = UNSET
    frequency: str | UnsetType = UNSET
    image_count: int | UnsetType = UNSET
    instance_count: int | UnsetType = UNSET


@dataclass
class Annotations:
    """The records of an annotation file, in its order. ``skipped`` says which were left out on request, and why."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    skipped: list[str] = field(default_factory=list)

    def by_image(self) -> dict[int, list[Annotation]]:
        """Annotations of every image, by image id; an image without any has an empty list."""
        grouped: dict[int, list[Annotation]] = {image.id: [] for image in self.images}
        for annotation in self.annotations:
            grouped[annotation.image_id].append(annotation)
        return grouped

    def check(self, path: Path, on_error: Literal["stop", "skip"] = "stop") -> None:
        """Check ids, references and boxes; UserError that names ``path``, or ``"skip"``, as for a file."""
        columns = Columns.of(path, self.annotations)
        keep, lines = annotation_checks.check(path, self.images, self.categories, columns, on_error)
        if lines:
            self.annotations = [record for record, kept in zip(self.annotations, keep) if kept]
            self.skipped.extend(lines)

    def save(self, path: str | Path) -> None:
        """Write compact json with the keys images, annotations, categories; whole or not at all."""
        with atomic_write(path) as temporary:
            self.write(temporary)

    def write(self, path: str | Path) -> None:
        """As :meth:`save`, straight to ``path``."""
        write_lists(path, {key: encoded_chunks(getattr(self, key)) for key in ("images", "annotations", "categories")})


def write_lists(path: str | Path, lists: Mapping[str, Iterable[bytes | memoryview]]) -> None:
    """Write a json object of lists; each is given as chunks of elements, without the list's brackets."""
    with open(path, "wb", buffering=0) as file:
        for data in _with_keys(lists):
            _write_all(file, data)


def _write_all(file: RawIOBase, data: bytes | memoryview) -> None:
    data = memoryview(data)
    while data:
        data = data[file.write(data) :]


def _with_keys(lists: Mapping[str, Iterable[bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    separator = b"{"
    for key, chunks in lists.items():
        yield separator + b'"%s":[' % key.encode()
        for index, chunk in enumerate(chunks):
            if index:
                yield b","
            yield chunk
        separator = b"],"
    yield b"]}"


def encoded_chunks(records: list, size: int = 8192) -> Iterator[memoryview]:
    """Records as compact json without the list's brackets, a few megabytes at a time."""
    encoder = msgspec.json.Encoder()
    remaining = iter(records)
    while chunk := list(islice(remaining, size)):
        encoded = encoder.encode(chunk)
        blank = b" " in encoded or b"\n" in encoded  # in raw values, as the file has them
        yield memoryview(msgspec.json.format(encoded, indent=-1) if blank else encoded)[1:-1]


def load_annotations(
    path: str | Path, *, check: bool = True, on_error: Literal["stop", "skip"] = "stop"
) -> Annotations:
    """Read a COCO or LVIS annotation file.

    Types and required fields are always checked; ``check`` adds ids (unique, and known where referred to) and boxes
    (not NaN, inverted, of zero area, or wholly outside their image; partly overhanging ones are common and fine).

    Args:
        on_error: ``"stop"`` raises UserError at the first kind of mistake; ``"skip"`` leaves out annotations that have
            an unusable box or belong to an unknown image or category, and lists them in ``Annotations.skipped``.

    Raises:
        UserError: one line that names the file and the record.
    """
    path = Path(path)
    content = read_content(path)
    with no_garbage_collection():
        loaded = _load(path, content, on_error)
        if check:
            loaded.check(path, on_error)
    return loaded


class _ImageAlone(msgspec.Struct, gc=False):
    id: int
    height: int
    width: int
    file_name: str | UnsetType = UNSET
    coco_url: str | UnsetType = UNSET


class _ImagesAlone(msgspec.Struct, gc=False):
    images: list[_ImageAlone]


def load_images(path: str | Path) -> list[Image]:
    """The images of an annotation file (id, size, name), for a reader that needs nothing else of it.

    Neither time nor memory go into annotations: they are checked to be json, and not for what they say.

    Raises:
        UserError: one line that names the file and the record.
    """
    path = Path(path)
    try:
        with no_garbage_collection(), open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            found = msgspec.json.decode(content, type=_ImagesAlone).images
    except (OSError, ValueError):  # msgspec's errors too
        return load_annotations(path).images  # it says what is wrong
    images = [Image(image.id, image.height, image.width, image.file_name, image.coco_url) for image in found]
    Annotations(images, [], []).check(path)
    return images


def read_content(path: Path) -> bytes:
    """The bytes of an annotation file; UserError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the annotation file {path}: {error.strerror or error}") from None


def _load(path: Path, content: bytes, on_error: str, skipped: Sequence[str] = ()) -> Annotations:
    try:
        images, annotations, categories = decode_lists(content)
    except msgspec.DecodeError as error:
        if annotation_checks.has_non_finite(content, error):
            content, skipped = annotation_checks.without_non_finite(path, content, on_error)
            return _load(path, content, on_error, skipped)
        raise annotation_checks.explain(path, content, error) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); correct the file") from None
    return Annotations(images, annotations, categories, list(skipped))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For millions of new objects, no cycles: the collector would only walk over them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_UNKNOWN = re.compile(r"unknown field `(.*)` - at `\$\.(images|annotations|categories)\[\d+\]`$", re.DOTALL)
_MOST_EXTRA_FIELDS = 100  # each may cost a pass over the file


def decode_lists(content: bytes) -> tuple[list[Image], list[Annotation], list[Category]]:
    """Images, annotations and categories of a file.

    Fields that the record types lack are added to them, as raw json, until the file fits.
    """
    bases = {"images": Image, "annotations": Annotation, "categories": Category}
    extra: dict[str, list[str]] = {kind: [] for kind in bases}
    while True:
        fields = [(kind, list[_with_fields(base, extra[kind])]) for kind, base in bases.items()]
        try:
            file = msgspec.json.decode(content, type=msgspec.defstruct("AnnotationFile", fields))
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN.search(str(error))
            if not unknown:
                raise
            name, kind = unknown.groups()
            if re.search(r'["\\\x00-\x1f]', name) or len(extra[kind]) == _MOST_EXTRA_FIELDS:
                raise  # msgspec has no such field names
            extra[kind].append(name)
        else:
            return file.images, file.annotations, file.categories


def _with_fields(base: type[msgspec.Struct], names: list[str]) -> type[msgspec.Struct]:
    if not names:
        return base
    fields = [(f"extra_{i}", Raw | UnsetType, msgspec.field(default=UNSET, name=name)) for i, name in enumerate(names)]
    return msgspec.defstruct(base.__name__, fields, bases=(base,), gc=False, forbid_unknown_fields=True)


def image_path(image: Image, root: str | Path) -> Path:
    """Where the image lies under ``root``.

    Every list of LVIS mixes images of two COCO folders, so ``coco_url`` (``.../train2017/000000000009.jpg``) counts
    where there is no ``file_name``.
    """
    if image.file_name:
        return Path(root) / image.file_name
    return Path(root, *image.coco_url.split("/")[-2:])
