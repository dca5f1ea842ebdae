"""Shots as the records of a COCO json, for whatever reads annotation files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from ovd.data.annotations import Annotation, Annotations, Category, Image
from ovd.errors import UserError, nearest
from ovd.fewshot.shot_checks import image_sizes
from ovd.vocabulary.classes import canonical

if TYPE_CHECKING:
    from ovd.fewshot.shots import Shot, ShotSet


def annotations_of(shots: "ShotSet", image_root: str | Path | None, category_ids: Mapping[str, int] | None,
                   source: Annotations | None, instance_wise: bool) -> Annotations:
    """The chosen boxes and their images; arguments as :meth:`ovd.fewshot.shots.ShotSet.to_annotations`."""
    size_of = _sizes(shots.shots(), image_root)
    ids = _category_ids(shots.names, category_ids)
    entries = [(ids[name], shot) for name, of_class in shots.classes.items()
               for shot in (of_class if instance_wise else dict.fromkeys(of_class))]
    numbers = [shot.annotation_id for _, shot in entries]
    if None in numbers or len(set(numbers)) < len(numbers):
        numbers = list(range(1, 1 + len(entries)))
    records_of = {record.id: record for record in source.annotations} if source else {}
    images, records = {}, []
    for place, (number, (category_id, shot)) in enumerate(zip(numbers, entries), 1):
        image_id = place if instance_wise else shot.image_id
        width, height = size_of[shot.image]
        images[image_id] = Image(image_id, height, width, file_name=shot.image)
        x1, y1, x2, y2 = shot.box
        known = records_of.get(shot.annotation_id)
        area, mask = (known.area, known.mask_json) if known else ((x2 - x1) * (y2 - y1), UNSET)
        records.append(Annotation(number, image_id, category_id, (x1, y1, x2 - x1, y2 - y1), area, 0, mask))
    names = sorted((number, name) for name, number in ids.items())
    return Annotations([images[key] for key in sorted(images)], records, [Category(*pair) for pair in names])


def _sizes(shots: Iterable["Shot"], image_root: str | Path | None) -> dict[str, tuple[int, int]]:
    known = {shot.image: shot.size for shot in shots}
    unknown = {image for image, size in known.items() if size is None}
    if unknown and image_root is None:
        raise UserError(f"the size of image {min(unknown)} is not known; give the folder of the images")
    return {**known, **(image_sizes(unknown, Path(image_root)) if unknown else {})}


def _category_ids(names: Iterable[str], given: Mapping[str, int] | None) -> dict[str, int]:
    if given is None:
        return {name: number for number, name in enumerate(names, 1)}
    by_name = {canonical(name): number for name, number in given.items()}
    for name in names:
        if canonical(name) not in by_name:
            raise UserError(f"there is no category id for the class {name!r}{nearest(name, given)}")
    return {name: by_name[canonical(name)] for name in names}
