"""The annotated objects of a COCO or LVIS file as pictures."""

import os
from typing import Literal

from ovd.data.annotations import image_path, load_annotations
from ovd.data.boxes import corners
from ovd.data.classification.pictures import Picture
from ovd.errors import UserError


def read_annotated(path: str | os.PathLike, image_root: str | os.PathLike,
                   on_error: Literal["stop", "skip"] = "stop") -> tuple[list[Picture], list[str]]:
    """Every object that is no crowd, image by image, and what was left out.

    Raises:
        UserError: An annotation file with mistakes (with ``"skip"`` unusable boxes are left out), or without objects.
    """
    annotations = load_annotations(path, on_error=on_error)
    names = {category.id: category.name for category in annotations.categories}
    by_image, found = annotations.by_image(), []
    for image in annotations.images:
        here, file = [a for a in by_image[image.id] if not a.iscrowd], str(image_path(image, image_root))
        boxes = corners([a.bbox for a in here]).tolist()
        found += [Picture(file, names[a.category_id], tuple(box)) for a, box in zip(here, boxes)]
    if not found:
        raise UserError(f"{path}: has no annotated objects")
    return found, list(annotations.skipped)
