"""Shots: the support boxes of each class, as one type that is written to a file with a hash and loaded again.

A shot is one box of one object. Its image is named relative to a folder, the image root, that whoever uses the shots
knows; boxes are x1, y1, x2, y2 in pixels of the original image.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovd.data.annotations import Annotations, no_garbage_collection
from ovd.errors import UserError, nearest
from ovd.fewshot.shot_checks import check_inside, check_record, image_sizes
from ovd.fewshot.shot_file import read_shot_file, shot_file_bytes
from ovd.fewshot.shot_records import annotations_of
from ovd.fewshot.shot_sampling import candidates, drawing_order, take
from ovd.stores.atomic import write_bytes
from ovd.stores.manifest import canonical_json, fingerprint_json
from ovd.vocabulary.classes import canonical

MIN_SIZE = 8.0  # pixels of the shorter side of a box that is drawn


@dataclass(frozen=True)
class Shot:
    """One support box.

    Attributes:
        image: The image file, relative to the image root, with ``/``.
        image_id: Its id; the ids of one set are of one image each.
        box: x1, y1, x2, y2 in pixels.
        annotation_id: The record of the annotation file that it was, where there is one.
        size: Width and height of the image in pixels, where known.
    """

    image: str
    image_id: int
    box: tuple[float, float, float, float]
    annotation_id: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self):
        box = tuple(float(value) for value in self.box)
        if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
            raise UserError(f"image {self.image}: {list(self.box)} is no box; give x1 < x2 and y1 < y2 (x1, y1, x2, "
                            "y2)")
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "image_id", int(self.image_id))
        if self.annotation_id is not None:
            object.__setattr__(self, "annotation_id", int(self.annotation_id))
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(value) for value in self.size))
            check_inside(box, self.size, f"image {self.image}")

    def to_json(self) -> dict[str, Any]:
        """The shot as a json object, without what is not known."""
        record = {"image": self.image, "image_id": self.image_id, "box": list(self.box)}
        if self.annotation_id is not None:
            record["annotation_id"] = self.annotation_id
        if self.size is not None:
            record["size"] = list(self.size)
        return record


@dataclass(frozen=True)
class ShotSet:
    """The shots of some classes, each class's in the order in which they were drawn.

    Attributes:
        classes: class name -> its shots, at least one; classes in their order.
        info: How they were chosen, plain json: ``method``, ``seed``, ``k``, source files with their sha256, ...

    Raises:
        UserError: no class, a class without shots, two classes of one name, one image id for two images.

    >>> box = Shot("street.jpg", 7, (10, 20, 60, 90))
    >>> ShotSet({"gadget": (box,)}).k
    1
    """

    classes: Mapping[str, tuple[Shot, ...]]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "classes", {name: tuple(shots) for name, shots in self.classes.items()})
        object.__setattr__(self, "info", json.loads(canonical_json(self.info)))
        if not self.classes:
            raise UserError("there are no classes among the shots; name at least one")
        seen: dict[str, str] = {}
        for name, shots in self.classes.items():
            if not isinstance(name, str) or not name.strip():
                raise UserError(f"{name!r} is not a class name")
            if not shots:
                raise UserError(f"the class {name!r} has no support boxes; give it at least one, or leave it out")
            if other := seen.get(canonical(name)):
                raise UserError(f"two classes have one name ({other!r} and {name!r}); rename one of them")
            seen[canonical(name)] = name
        self._check_images()

    def _check_images(self) -> None:
        files: dict[int, str] = {}
        ids: dict[str, int] = {}
        for shot in self.shots():
            if files.setdefault(shot.image_id, shot.image) != shot.image:
                raise UserError(f"image id {shot.image_id} is that of {files[shot.image_id]} and of {shot.image}; give "
                                "every image an id of its own")
            if ids.setdefault(shot.image, shot.image_id) != shot.image_id:
                raise UserError(f"image {shot.image} has the ids {ids[shot.image]} and {shot.image_id}; give it one")

    def shots(self) -> Iterator[Shot]:
        """All shots, class by class."""
        for shots in self.classes.values():
            yield from shots

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in order."""
        return tuple(self.classes)

    @property
    def k(self) -> int:
        """Shots of the class that has most."""
        return max(map(len, self.classes.values()))

    @property
    def hash(self) -> str:
        """``sha256:...`` of classes and shots. How they were chosen does not count: equal shots have equal hashes."""
        return fingerprint_json(list(self._plain_classes().items()))

    def _plain_classes(self) -> dict[str, list[dict[str, Any]]]:
        return {name: [shot.to_json() for shot in shots] for name, shots in self.classes.items()}

    def __getitem__(self, name: str) -> tuple[Shot, ...]:
        return self.classes[self._name(name)]

    def _name(self, name: str) -> str:
        for known in self.classes:
            if canonical(known) == canonical(name):
                return known
        raise UserError(f"there are no shots of {name!r}{nearest(name, self.classes)}")

    def first(self, k: int) -> "ShotSet":
        """The ``k`` first shots of each class (all of a class that has fewer)."""
        if k < 1:
            raise UserError(f"{k} shots of each class: needs one or more")
        return ShotSet({name: shots[:k] for name, shots in self.classes.items()}, {**self.info, "k": min(k, self.k)})

    def select(self, names: Iterable[str]) -> "ShotSet":
        """The classes ``names``, in that order; UserError for one that is not there."""
        return replace(self, classes={known: self.classes[known] for known in map(self._name, names)})

    def merge(self, other: "ShotSet") -> "ShotSet":
        """Both sets' shots, of one image root; a class in both has those of ``self``, then those that are new.

        An image id that the two use for different images is changed in ``other``.
        """
        ids = {shot.image: shot.image_id for shot in self.shots()}
        used = set(ids.values())
        for image, image_id in sorted({(shot.image, shot.image_id) for shot in other.shots()}):
            if image not in ids:
                ids[image] = image_id if image_id not in used else 1 + max(used)
                used.add(ids[image])
        merged = {name: list(shots) for name, shots in self.classes.items()}
        known = {canonical(name): name for name in merged}
        for name, shots in other.classes.items():
            mine = merged.setdefault(known.get(canonical(name), name), [])
            there = {(shot.image, shot.box) for shot in mine}
            mine += [replace(shot, image_id=ids[shot.image]) for shot in shots if (shot.image, shot.box) not in there]
        parts = [{**one.info, "hash": one.hash} for one in (self, other)]
        return ShotSet(merged, {"method": "merged", "parts": parts})

    def save(self, path: str | Path) -> None:
        """Write the json file; the same shots and info are the same bytes."""
        write_bytes(path, shot_file_bytes(self._plain_classes(), self.info, self.hash))

    @classmethod
    def load(cls, path: str | Path) -> "ShotSet":
        """Read a file that :meth:`save` wrote.

        Raises:
            UserError: no such file, not one of shots, or one that was changed by hand (its hash does not fit).
        """
        file = read_shot_file(path)
        try:
            shots = cls({name: tuple(Shot(**fields) for fields in records) for name, records in file.classes.items()},
                        file.info)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if shots.hash != file.hash:
            raise UserError(f"{path}: was changed after it was written (its shots have the hash {shots.hash[:15]}, it "
                            f"says {file.hash[:15]}); make it again, or import your own boxes with ovd shots import")
        return shots

    def check(self, image_root: str | Path) -> None:
        """Check that every image is there, has the size that is known of it, and has its boxes inside; else UserError.

        Reads the first and last bytes of the images.
        """
        file = self.info.get("file")
        sizes = image_sizes({shot.image for shot in self.shots()}, Path(image_root), file)
        for name, shots in self.classes.items():
            for number, shot in enumerate(shots, 1):
                where = f"{Path(image_root, shot.image)}: shot {number} of {name!r}{f' in {file}' if file else ''}"
                size = sizes[shot.image]
                if shot.size not in (None, size):
                    raise UserError(f"{where} is of an image of {shot.size[0]} x {shot.size[1]} pixels, this has "
                                    f"{size[0]} x {size[1]}; give the folder of the right images")
                check_inside(shot.box, size, where)

    def check_annotations(self, annotations: Annotations, path: str | Path) -> None:
        """Check that the shots are still those of an annotation file; UserError where a class, id or box differs."""
        names = {category.id: canonical(category.name) for category in annotations.categories}
        records = {record.id: record for record in annotations.annotations}
        for name, shots in self.classes.items():
            if canonical(name) not in names.values():
                hint = nearest(name, (category.name for category in annotations.categories))
                raise UserError(f"{path}: has no class {name!r}, of which there are shots{hint}")
            for shot in shots:
                if shot.annotation_id is not None:
                    check_record(shot, canonical(name), records.get(shot.annotation_id), names, path)

    def to_annotations(self, image_root: str | Path | None = None, *, category_ids: Mapping[str, int] | None = None,
                       source: Annotations | None = None, instance_wise: bool = False) -> Annotations:
        """The chosen boxes alone as the records of a COCO json, for fine-tuning with any config.

        Annotations keep their ids where all have one of their own, else they are numbered from 1. A box that two
        classes have is a record of each; a repeated shot of one class is one record, unless ``instance_wise``.

        Args:
            image_root: Where the images lie; needed where the shots do not know the images' sizes.
            category_ids: Ids by class name; by default from 1, in the order of the classes.
            source: Records that the shots are of: masks and areas are taken from them, by annotation id. Without it,
                there are no masks, and areas are the boxes'.
            instance_wise: One image record for each shot, with that box alone (images are then numbered from 1).
        """
        return annotations_of(self, image_root, category_ids, source, instance_wise)


def sample_shots(annotations: Annotations, names: Sequence[str], k: int | Mapping[str, int], seed: int, *,
                 replacement: bool = False, min_size: float = MIN_SIZE,
                 info: Mapping[str, Any] | None = None) -> ShotSet:
    """Draw ``k`` shots of each class, nested in ``k`` and independent per class (see :mod:`ovd.fewshot.shot_sampling`).

    Args:
        annotations: Checked records; their file names are relative to the image root of the shots.
        names: The classes, in the order that the shots are to have.
        k: Of every class, or by class name; a class with 0 is left out.
        seed: Another seed draws other shots.
        replacement: Take the boxes of a class again, in turn, where it has fewer than ``k``.
        min_size: Boxes with a shorter side than so many pixels are too small to show anything.
        info: What ``ShotSet.info`` is to say beside method, seed, k and these settings, such as the source files.

    Raises:
        UserError: a class without enough boxes, or that the annotations do not have.
    """
    if min_size < 0:
        raise UserError(f"a least size of {min_size:g} pixels: give 0 or more")
    number_of = _shots_of(names, k)
    with no_garbage_collection():
        found = candidates(annotations, list(number_of), min_size)
        for name, number in number_of.items():
            found[name].require(name, number, replacement)
        orders = {name: drawing_order(found[name].usable, name, seed) for name in number_of}
    classes = {name: tuple(Shot(one.file, one.image.id, one.box, one.record.id, (one.image.width, one.image.height))
                           for one in take(orders[name], number))
               for name, number in number_of.items()}
    numbers = set(number_of.values())
    settings = {"method": "sampled", "seed": seed, "k": numbers.pop() if len(numbers) == 1 else number_of,
                "min_size": min_size, "replacement": replacement}
    return ShotSet(classes, {**settings, **(info or {})})


def _shots_of(names: Sequence[str], k: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(k, Mapping):
        by_name = {canonical(name): number for name, number in k.items()}
        for name in names:
            if canonical(name) not in by_name:
                raise UserError(f"class {name!r}: it is not said how many shots are wanted{nearest(name, k)}")
        chosen = [(name, by_name[canonical(name)]) for name in names]
    else:
        chosen = [(name, k) for name in names]
    for name, number in chosen:
        if number < 0 or (number == 0 and not isinstance(k, Mapping)):
            raise UserError(f"class {name!r}: {number} shots; ask for one or more")
    if len({canonical(name) for name, _ in chosen}) < len(chosen):
        doubled = [name for name, count in Counter(canonical(name) for name, _ in chosen).items() if count > 1]
        raise UserError(f"class {doubled[0]!r} is asked for twice; name every class once")
    return {name: number for name, number in chosen if number}
