"""What a detector found in an image: one type, with converters to what others expect.

Shapes: N detections of an image of H x W pixels.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ovd.apis.images import ImageInput, read_rgb
from ovd.errors import UserError, nearest

if TYPE_CHECKING:
    import supervision

PICTURES = (".png", ".jpg", ".jpeg")


class Detection(NamedTuple):
    """One detection: ``box`` is float32 x1, y1, x2, y2 in pixels, ``rle`` a COCO RLE or None."""

    name: str
    score: float
    box: np.ndarray
    label: int
    rle: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one image, by falling score.

    ``len``, iteration (of :class:`Detection`), ``found[3]`` for one of them, and ``found[2:5]``, ``found[[0, 4]]`` and
    ``found[found.scores > 0.5]`` for some of them, as :class:`Detections` again.

    Attributes:
        boxes: float32 ``[N, 4]``, x1, y1, x2, y2 in pixels of the image.
        scores: float32 ``[N]``, 0 to 1.
        labels: int64 ``[N]``, positions in ``classes``.
        classes: The names of the vocabulary.
        image_size: (height, width) in pixels.
        rles: N masks as COCO's run lengths (``size`` and ``counts``, text); None where there are no masks.
        source: The image's path, where it came from a file.
        colours: For each of ``classes`` the RGB colour in which a detector draws it.
        image: What was looked at, as it was given; pictures are drawn on it.

    >>> import numpy as np
    >>> found = Detections(np.array([[10, 20, 60, 70], [0, 0, 9, 9]]), np.array([0.9, 0.4]), np.array([1, 0]),
    ...                    ("zebra", "traffic cone"), (100, 200))
    >>> found.names
    ['traffic cone', 'zebra']
    >>> [(one.name, one.box.tolist()) for one in found.above(0.5)]
    [('traffic cone', [10.0, 20.0, 60.0, 70.0])]
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    rles: tuple[dict[str, Any], ...] | None = None
    source: str | None = None
    colours: tuple[tuple[int, int, int], ...] = ()
    image: ImageInput | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, dtype, shape in (("boxes", np.float32, (-1, 4)), ("scores", np.float32, (-1,)),
                                   ("labels", np.int64, (-1,))):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype).reshape(shape))
        object.__setattr__(self, "rles", None if self.rles is None else tuple(self.rles))

    @property
    def names(self) -> list[str]:
        """The class of each detection."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> "Detection | Detections":
        if isinstance(index, int | np.integer):
            rle = None if self.rles is None else self.rles[index]
            return Detection(self.classes[self.labels[index]], float(self.scores[index]), self.boxes[index],
                             int(self.labels[index]), rle)
        rows = np.arange(len(self))[np.zeros(0, int) if isinstance(index, list) and not index else index]
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows],
                       rles=None if self.rles is None else tuple(self.rles[row] for row in rows))

    def above(self, threshold: float) -> "Detections":
        """Those with a score of ``threshold`` or more."""
        return self[self.scores >= np.float32(threshold)]

    def one_per_object(self, overlap: float = 0.6) -> "Detections":
        """Less those that overlap a better one more than ``overlap`` (IoU), whatever their classes: for pictures.

        >>> twice = Detections([[0, 0, 50, 50], [0, 0, 49, 50]], [0.9, 0.8], [0, 1], ("star", "heart"), (100, 100))
        >>> twice.one_per_object().names
        ['star']
        """
        import torch
        from torchvision.ops import nms

        return self[nms(torch.from_numpy(self.boxes), torch.from_numpy(self.scores), overlap).numpy()]

    def masks(self) -> np.ndarray:
        """The masks, bool ``[N, H, W]``.

        Raises:
            UserError: There are none: the detector has no mask head, or was asked for none.
        """
        if self.rles is None:
            raise UserError("there are no masks: detect with masks=True, by a detector that has a mask head")
        from pycocotools import mask

        if not self.rles:
            return np.zeros((0, *self.image_size), bool)
        return mask.decode(list(map(_bytes, self.rles))).transpose(2, 0, 1).astype(bool)

    def plot(self, threshold: float = 0.0, opacity: float = 0.4) -> Image.Image:
        """The image with boxes, masks, names and scores; a small one is enlarged.

        Args:
            threshold: Lowest score that is drawn.
            opacity: Of the masks, 0 to 1.

        Raises:
            UserError: The image is not there any more.
        """
        from ovd.evaluation.pictures import class_colour, draw_instances, readable_scale

        if self.image is None and self.source is None:
            raise UserError("these detections have no image to draw on: give it one with dataclasses.replace(found, "
                            "image=...)")
        image = read_rgb(self.source if self.image is None else self.image)
        shown = self.above(threshold)
        colours = [self.colours[label] if self.colours else class_colour(label) for label in shown.labels]
        return Image.fromarray(draw_instances(
            image, shown.boxes, shown.names, shown.labels, shown.masks() if shown.rles else None, shown.scores,
            readable_scale(image), colours, opacity))

    def save(self, path: str | os.PathLike) -> Path:
        """Write a ``.json`` of :meth:`to_dict`, or a picture (``.png``, ``.jpg``) of :meth:`plot`.

        Raises:
            UserError: Another kind of file; a folder that cannot be written to.
        """
        from ovd.stores.atomic import atomic_write, write_bytes

        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            write_bytes(path, (json.dumps(self.to_dict(), ensure_ascii=False) + "\n").encode())
        elif suffix in PICTURES:
            picture = self.plot()
            with atomic_write(path) as temporary:
                picture.save(temporary, format="PNG" if suffix == ".png" else "JPEG")
        else:
            raise UserError(f"{path}: write a .json, or a picture (.png, .jpg)")
        return path

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain json: ``image`` (path), ``height``, ``width``, ``detections``: each its ``name``,
        ``score``, ``box`` (x1, y1, x2, y2) and, where there are masks, ``mask`` (RLE)."""
        height, width = self.image_size
        return {"image": self.source, "height": height, "width": width, "detections": [
            {"name": one.name, "score": round(one.score, 6), "box": [round(float(v), 3) for v in one.box],
             **({} if one.rle is None else {"mask": one.rle})} for one in self]}

    @classmethod
    def from_dict(cls, contents: Mapping[str, Any], classes: tuple[str, ...]) -> "Detections":
        """What :meth:`to_dict` gave, also read back from a file of :meth:`save`.

        Args:
            contents: ``height``, ``width``, ``detections`` and, where there is one, ``image``.
            classes: The vocabulary.

        Raises:
            UserError: A name that is not among the classes.

        >>> found = Detections([[10, 20, 60, 70]], [0.5], [1], ("cat", "zebra"), (100, 200))
        >>> Detections.from_dict(found.to_dict(), ("zebra",)).labels
        array([0])
        """
        labels = {name: label for label, name in enumerate(classes)}
        found = contents["detections"]
        if unknown := next((one["name"] for one in found if one["name"] not in labels), None):
            raise UserError(f"the classes do not have {unknown!r}, of which there are detections"
                            f"{nearest(unknown, classes)}")
        masks = [one["mask"] for one in found if "mask" in one]
        return cls(np.array([one["box"] for one in found]), np.array([one["score"] for one in found]),
                   np.array([labels[one["name"]] for one in found]), classes, (contents["height"], contents["width"]),
                   tuple(masks) if len(masks) == len(found) else None, contents.get("image"))

    def to_coco(self, image_id: int, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """Records of COCO's results format: ``bbox`` is x, y, width, height.

        Args:
            image_id: Of the annotation file.
            category_ids: Class name -> its id there; by default from 1 in the order of the vocabulary.

        Raises:
            UserError: A class that has no id.

        >>> found = Detections([[10, 20, 60, 70]], [0.5], [0], ("zebra",), (100, 200))
        >>> found.to_coco(7, {"zebra": 24})
        [{'image_id': 7, 'category_id': 24, 'bbox': [10.0, 20.0, 50.0, 50.0], 'score': 0.5}]
        """
        if category_ids is None:
            category_ids = {name: number for number, name in enumerate(self.classes, 1)}
        records = []
        for one in self:
            if one.name not in category_ids:
                raise UserError(f"category_ids has no class {one.name!r}{nearest(one.name, category_ids)}")
            x1, y1, x2, y2 = (float(value) for value in one.box)
            record = {"image_id": image_id, "category_id": category_ids[one.name], "bbox": [x1, y1, x2 - x1, y2 - y1],
                      "score": one.score}
            records.append(record if one.rle is None else {**record, "segmentation": one.rle})
        return records

    def to_supervision(self) -> "supervision.Detections":
        """As ``supervision.Detections``, with ``data["class_name"]``.

        Raises:
            UserError: The package supervision is not installed.
        """
        try:
            from supervision import Detections as Theirs
        except ImportError:
            raise UserError("the package supervision is not installed: pip install supervision") from None
        return Theirs(xyxy=self.boxes.copy(), mask=None if self.rles is None else self.masks(),
                      confidence=self.scores.copy(), class_id=self.labels.astype(int),
                      data={"class_name": np.array(self.names, dtype=str)})


def encode_masks(masks_NHW: np.ndarray) -> tuple[dict[str, Any], ...]:
    """Bool masks ``[N, H, W]`` as COCO's run lengths, with text for ``counts``."""
    from pycocotools import mask

    encoded = (mask.encode(np.asfortranarray(one.view(np.uint8))) for one in masks_NHW)  # one by one: photos are large
    return tuple({"size": list(map(int, one["size"])), "counts": one["counts"].decode()} for one in encoded)


def _bytes(rle: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode()}
