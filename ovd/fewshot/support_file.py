"""Support of a class as a COCO-style json: image records, boxes with scores and where they come from, one category."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovd.data.annotations import Annotation, Annotations, Image
from ovd.data.boxes import corners
from ovd.evaluation.recall import pairwise_iou
from ovd.fewshot.candidates import SAME_OBJECT, Candidates, Example
from ovd.vocabulary.classes import canonical


def support_json(name: str, annotations: Annotations, examples: Sequence[Example], chosen: Candidates,
                 extra: Sequence[Mapping[str, Any]], from_annotations: bool) -> dict[str, Any]:
    """The examples, then the chosen boxes in their order.

    The category's id is the annotation file's where it has the class, else the next free one.

    Args:
        annotations: Of the images that the boxes are in.
        extra: Further fields of each chosen box, such as scores.
        from_annotations: Whether the chosen boxes are annotated ones; of others it is said what they are annotated as.
    """
    images = {image.id: image for image in annotations.images}
    known = {canonical(category.name): category.id for category in annotations.categories}
    category = known.get(canonical(name), 1 + max(known.values(), default=0))
    names = {category.id: category.name for category in annotations.categories}
    by_image = annotations.by_image()
    records = [_record(image_id, box, {"source": "example"}) for image_id, box in examples]
    for rank, fields in enumerate(extra):
        image_id, box = int(chosen.image_ids[rank]), chosen.boxes[rank]
        said = {"source": "annotation" if from_annotations else "suggestion", "rank": rank + 1,
                "score": round(float(chosen.scores[rank]), 4), **fields, "position": int(chosen.positions[rank])}
        if not from_annotations:
            said["annotated_as"] = _annotated_as(box, by_image[image_id], names)
        records.append(_record(image_id, box, said))
    used = sorted({record["image_id"] for record in records})
    return {
        "info": {"description": f"support of the class {name}"},
        "images": [_image(images[image_id]) for image_id in used],
        "annotations": [{"id": number, "category_id": category, **record} for number, record in enumerate(records, 1)],
        "categories": [{"id": category, "name": name}],
    }


def _record(image_id: int, box: Sequence[float], extra: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    xywh = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {"image_id": image_id, "bbox": xywh, "area": round(xywh[2] * xywh[3], 2), "iscrowd": 0, **extra}


def _image(image: Image) -> dict[str, Any]:
    named = {key: value for key in ("file_name", "coco_url") if (value := getattr(image, key))}
    return {"id": image.id, **named, "width": image.width, "height": image.height}


def _annotated_as(box: np.ndarray, here: Sequence[Annotation], names: Mapping[int, str]) -> str | None:
    if not here:
        return None
    iou = pairwise_iou([box], corners([a.bbox for a in here]))[0]
    return names[here[int(iou.argmax())].category_id] if iou.max() >= SAME_OBJECT else None
