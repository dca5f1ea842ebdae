"""What a report shows of a dataset: images as several methods see them, figures of each class, recall of proposals."""

import io
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image as PilImage
from pycocotools import mask as coco_mask

from ovd.data.annotations import Annotation, Image, image_path, load_annotations
from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.evaluation.average_precision import Detections, GroundTruth, class_ap
from ovd.evaluation.comparison import Instances, draw_comparison
from ovd.evaluation.recall import LIMITS, ImageBoxes, proposal_recall
from ovd.evaluation.report import ClassRow, Scene, group_title
from ovd.stores.shards import RegionStore
from ovd.vocabulary.splits import Split

JPEG_QUALITY = 85


class Found(msgspec.Struct, gc=False):
    """One detection of COCO's results json: ``bbox`` is x, y, width, height."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    segmentation: dict | None = None


class Exhibits:
    """Ground truth and the detections of several methods, by image id.

    Args:
        ann_file: ground truth, COCO or LVIS json.
        image_root: the folder that its images are relative to.
        split: the classes; others are left out.
        detections: title of a method -> its detections (``ovd test --out F.json``).

    Raises:
        UserError: a file that is missing or not what it should be, detections of unknown images or classes.
    """

    def __init__(self, ann_file: str | os.PathLike, image_root: str | os.PathLike, split: Split,
                 detections: Mapping[str, str | os.PathLike]) -> None:
        self.ann_file = ann_file
        self.image_root = Path(image_root)
        self.split = split
        annotations = load_annotations(ann_file)
        self.labels = {c.id: split.label(c.name) for c in annotations.categories if c.name in split}
        self.images: dict[int, Image] = {image.id: image for image in annotations.images}
        self.objects = {image_id: [a for a in found if a.category_id in self.labels and not a.iscrowd]
                        for image_id, found in annotations.by_image().items()}
        self.detections = {title: self._read(path) for title, path in detections.items()}

    def _read(self, path: str | os.PathLike) -> list[Found]:
        try:
            found = msgspec.json.decode(Path(path).read_bytes(), type=list[Found])
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; write it with ovd test ... --out {path}") from error
        except msgspec.DecodeError as error:
            raise UserError(f"{path}: not COCO results ({error}); write it with ovd test ... --out {path}") from error
        for row in found:
            if row.image_id not in self.images or row.category_id not in self.labels:
                what = "image" if row.image_id not in self.images else "category"
                raise UserError(f"{path}: a detection is of {what} {getattr(row, what + '_id')}, which {self.ann_file} "
                                "does not have; they belong to different datasets")
        return found

    def scenes(self, count: int) -> tuple[list[Scene], list[dict[str, np.ndarray]]]:
        """The ``count`` images with the most novel objects, for a page, and the same as pictures.

        Objects of the split's last group (the hardest) count first. What was detected has no part in the choice.
        """
        groups = self.split.all_groups()
        novel = set(groups["novel"])
        hardest = set(groups[next(reversed(self.split.groups))]) if self.split.groups else novel

        def rank(image_id: int) -> tuple[int, int, int]:
            labels = [self.labels[a.category_id] for a in self.objects[image_id]]
            return -sum(label in hardest for label in labels), -sum(label in novel for label in labels), image_id

        chosen = sorted(self.images, key=rank)[:count]
        pictures = [self._compare(image_id, novel) for image_id in chosen]
        scenes = [Scene(self._caption(image_id), {title: _jpeg(picture) for title, picture in panels.items()})
                  for image_id, panels in zip(chosen, pictures)]
        return scenes, pictures

    def class_rows(self) -> list[ClassRow]:
        """AP50 of every class, by group."""
        truth = GroundTruth(self.ann_file, self.split.classes)
        figures = []
        for rows in self.detections.values():
            columns = Detections(np.array([row.image_id for row in rows], np.int64),
                                 corners([row.bbox for row in rows]), np.array([row.score for row in rows]),
                                 np.array([self.labels[row.category_id] for row in rows], np.int64))
            figures.append(class_ap(truth.precision(columns, iou_thresholds=[0.5], image_ids=list(self.images))))
        counts = np.bincount([self.labels[a.category_id] for found in self.objects.values() for a in found],
                             minlength=len(self.split.classes))
        group_of = groups_by_label(self.split)
        order = list(self.split.all_groups())
        labels = sorted(range(len(self.split.classes)), key=lambda i: (order.index(group_of[i]), self.split.classes[i]))
        return [ClassRow(self.split.classes[i], group_of[i], int(counts[i]), [float(row[i]) for row in figures])
                for i in labels]

    def recall(self, store: str | os.PathLike, limits: Sequence[int] = LIMITS,
               most_images: int | None = None) -> dict[str, dict[str, float]]:
        """Group -> ``AR@k`` and ``recall@k`` (at an overlap of 0.5) of a store of proposals, in per cent.

        Of the limits, those are left out that ask for more proposals than any image has. Of more than ``most_images``
        images, every n-th is looked at.
        """
        proposals = RegionStore(store)
        images = []
        step = 1 if most_images is None else max(1, -(-len(self.objects) // most_images))
        for image_id, found in islice(self.objects.items(), 0, None, step):
            if image_id not in proposals:
                raise UserError(f"{store}: has no proposals for image {image_id} of {self.ann_file}")
            truth = self._truth(found)
            images.append(ImageBoxes(truth.boxes, truth.labels, proposals[image_id].boxes))
        most = max((len(image.proposals_N4) for image in images), default=0)
        limits = [limit for limit in limits if limit <= most] or [min(limits)]
        recalls = proposal_recall(images, self.split.all_groups(), limits)
        return {group: {f"AR@{k}": recall.average[k] for k in limits} | {f"recall@{k}": recall.at_50[k] for k in limits}
                for group, recall in recalls.items()}

    def _compare(self, image_id: int, novel: set[int]) -> dict[str, np.ndarray]:
        record = self.images[image_id]
        path = image_path(record, self.image_root)
        try:
            with PilImage.open(path) as file:
                image = np.asarray(file.convert("RGB"))
        except OSError as error:
            raise UserError(f"{path}: cannot read the image ({error})") from error
        size = record.height, record.width
        found = {title: self._instances([row for row in rows if row.image_id == image_id], size)
                 for title, rows in self.detections.items()}
        return draw_comparison(image, self._truth(self.objects[image_id], size), found, self.split.classes, novel)

    def _truth(self, found: Sequence[Annotation], size: tuple[int, int] | None = None) -> Instances:
        masks = [a.mask() for a in found]
        with_masks = size is not None and all(masks)
        return Instances(corners([a.bbox for a in found]),
                         np.array([self.labels[a.category_id] for a in found], np.int64),
                         masks=decode_masks(masks, size) if with_masks else None)

    def _instances(self, rows: Sequence[Found], size: tuple[int, int]) -> Instances:
        masks = [row.segmentation for row in rows]
        return Instances(corners([row.bbox for row in rows]),
                         np.array([self.labels[row.category_id] for row in rows], np.int64),
                         np.array([row.score for row in rows], np.float64),
                         decode_masks(masks, size) if all(masks) else None)

    def _caption(self, image_id: int) -> str:
        labels = [self.labels[a.category_id] for a in self.objects[image_id]]
        counts = {group: sum(label in set(members) for label in labels)
                  for group, members in self.split.all_groups().items() if group not in ("novel", "all")}
        if not self.split.groups:
            counts["novel"] = sum(label >= self.split.num_base for label in labels)
        parts = [f"{count} of {group_title(group)}" for group, count in counts.items() if count]
        name = image_path(self.images[image_id], "").name
        return f"{name}: {len(labels)} objects ({', '.join(parts)})" if parts else f"{name}: no objects"


def groups_by_label(split: Split) -> dict[int, str]:
    """Label -> the narrowest group of its class: later groups are parts of base and novel."""
    found: dict[int, str] = {}
    for group, labels in split.all_groups().items():
        if group != "all":
            found |= dict.fromkeys(labels, group)
    return found


def decode_masks(masks: Sequence[list | dict], size: tuple[int, int]) -> np.ndarray:
    """Masks bool ``[N, height, width]`` of polygons or run-length encodings, as COCO's files have them."""
    height, width = size
    decoded = np.zeros((len(masks), height, width), bool)
    for index, mask in enumerate(masks):
        if isinstance(mask, list):
            mask = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
        elif isinstance(mask["counts"], list):
            mask = coco_mask.frPyObjects(mask, height, width)
        decoded[index] = coco_mask.decode(mask)
    return decoded


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    PilImage.fromarray(picture).save(file, "jpeg", quality=JPEG_QUALITY)
    return file.getvalue()
