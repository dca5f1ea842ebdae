"""What a run found beside the truth: figures of each class, precision and recall, errors, the worst and best images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image as PilImage

from ovd.data.annotations import Image, image_path
from ovd.errors import UserError
from ovd.evaluation.average_precision import SIZES, Detections, GroundTruth, class_ap, groups_of
from ovd.evaluation.comparison import Instances, clearest, draw_verdicts, found_objects
from ovd.evaluation.error_breakdown import IGNORED, VERDICTS, Verdicts, judge
from ovd.evaluation.exhibits import decode_masks, groups_by_label
from ovd.evaluation.runs import Run
from ovd.evaluation.saved_detections import load_detections
from ovd.vocabulary.splits import Split, get_split

LARGE = 300_000_000  # bytes of a detections file whose masks are left out
MOST_RANKED = 5000  # images


@dataclass(frozen=True)
class ClassFigures:
    """Figures of a class, in per cent; NaN where it has no objects (of that size).

    Attributes:
        name, group, frequency: its name, its narrowest group (``base``, ``novel``, ...), LVIS's r, c, f or "".
        objects: annotated in the images that were searched.
        ap, ap50, small, medium, large: AP over overlaps 0.5 to 0.95, AP50, AP by size, of boxes.
        mask_ap: AP of masks; NaN without masks.
        taken_for: the class that its objects are most often taken for, and how often; ("", 0) for none.
    """

    name: str
    group: str
    frequency: str
    objects: int
    ap: float
    ap50: float
    small: float
    medium: float
    large: float
    mask_ap: float
    taken_for: tuple[str, int] = ("", 0)


@dataclass(frozen=True)
class ImageScore:
    """How an image came out at the run's best threshold: ``score`` is F1, 1 where everything is right."""

    image_id: int
    score: float
    correct: int
    missed: int
    wrong: int


class RunResults:
    """The detections of a run with its ground truth; what is costly is computed when it is first asked for.

    Args:
        run: a run with detections, annotations and a split.
        truth: the ground truth where it was read before.

    Raises:
        UserError: a file that is not what it should be, or that belongs to another dataset.
    """

    def __init__(self, run: Run, truth: GroundTruth | None = None) -> None:
        self.run = run
        self.split: Split = get_split(run.split)
        self.truth = truth if truth is not None else GroundTruth(run.annotations, self.split.classes)
        kinds = ("bbox",) if run.detections.stat().st_size > LARGE else None
        self.detections, images = load_detections(run.detections, self.truth, kinds)
        self.image_ids: list[int] = sorted(self.truth.images) if images is None else images
        self.groups = groups_of(self.split.all_groups(), self.truth.frequencies, run.protocol)

    @classmethod
    def of(cls, run: Run, truth: GroundTruth | None = None) -> "RunResults | None":
        """The results of a run, None where it lacks detections, annotations or a split."""
        return cls(run, truth) if run.detections and run.annotations and run.split else None

    @cached_property
    def precision(self) -> dict[str, np.ndarray]:
        """``all``, ``small``, ... -> interpolated precision of boxes ``[T, R, C]``, -1 where there is no truth."""
        return self.truth.precision_by_size(self.detections, "bbox", self.run.protocol, self.image_ids)

    @cached_property
    def verdicts(self) -> Verdicts:
        """What is right and wrong."""
        return judge(self.truth, self.detections, self.run.protocol, self.image_ids)

    @cached_property
    def _shown(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Image -> the scores of its clearest detections, best first, and whether each names an object right.

        Of more than :data:`MOST_RANKED` images every n-th.
        """
        shown = {}
        for image_id in self.image_ids[::-(-len(self.image_ids) // MOST_RANKED) or 1]:
            truth, found = self.objects(image_id), self.found(image_id)
            found = found[clearest(found, 0.0, limit=100)]
            at = found_objects(found, truth)
            right = (at >= 0) & (truth.labels[at] == found.labels) if len(truth) else np.zeros(len(found), bool)
            shown[image_id] = found.scores, right
        return shown

    @cached_property
    def threshold(self) -> float:
        """The score from which on detections, the best at each place, have the highest F1."""
        scores = np.concatenate([scores for scores, _ in self._shown.values()] or [np.empty(0)])
        if not len(scores):
            return 0.5
        order = np.argsort(-scores, kind="stable")
        correct = np.cumsum(np.concatenate([right for _, right in self._shown.values()])[order])
        objects = sum(len(self._records.get(image_id, ())) for image_id in self._shown)
        f1 = 2 * correct / (np.arange(1, len(order) + 1) + objects)
        ranked = np.append(scores[order], 0.0)
        f1[ranked[:-1] == ranked[1:]] = -1  # equal scores are shown together
        best = int(f1.argmax())
        return float((ranked[best] + ranked[best + 1]) / 2)

    def curves(self, group: str, threshold: int = 0) -> np.ndarray | None:
        """Precision ``[101]`` at recalls 0, 0.01, ..., 1, mean over a group's classes; None without objects.

        ``threshold`` is a position in the list of overlaps: 0 for 0.5, 5 for 0.75.
        """
        precision_RC = self.precision["all"][threshold][:, np.asarray(self.groups[group], np.int64)]
        precision_RC = precision_RC[:, precision_RC[0] > -1]
        return precision_RC.mean(axis=1) if precision_RC.shape[1] else None

    def costs(self) -> dict[str, dict[str, float]]:
        """Group -> AP50, and what each kind of error costs (:meth:`Verdicts.costs`)."""
        return self.verdicts.costs(self.groups)

    def class_rows(self) -> list[ClassFigures]:
        """Figures of every class, by group, then by name."""
        by_size = {size: class_ap(self.precision[size]) for size in ("all", *SIZES)}
        ap50 = class_ap(self.precision["all"][:1])
        masks = np.full(len(ap50), np.nan)
        if self.detections.masks is not None:
            masks = class_ap(self.truth.precision(self.detections, "segm", self.run.protocol, self.image_ids))
        counts = np.bincount(self.verdicts.objects, minlength=len(ap50))
        taken: dict[int, tuple[str, int]] = {}
        for (true, other), count in self.verdicts.confusions(self.threshold).items():
            taken.setdefault(true, (self.split.classes[other], count))
        group_of, order = groups_by_label(self.split), list(self.split.all_groups())
        labels = sorted(range(len(ap50)), key=lambda i: (order.index(group_of[i]), self.split.classes[i]))
        return [ClassFigures(self.split.classes[i], group_of[i], self.truth.frequencies[i], int(counts[i]),
                             float(by_size["all"][i]), float(ap50[i]), *(float(by_size[size][i]) for size in SIZES),
                             float(masks[i]), taken.get(i, ("", 0))) for i in labels]

    def ranked_images(self) -> list[ImageScore]:
        """The images with objects (of more than 5000 every n-th), from the worst to the best.

        Of equal ones, those with more errors come first, and those with more right last.
        """
        rows = []
        for image_id, (scores, right) in self._shown.items():
            objects, shown = len(self._records.get(image_id, ())), int((scores >= self.threshold).sum())
            correct = int(right[:shown].sum())
            if objects:
                rows.append(ImageScore(image_id, 2 * correct / (objects + shown), correct, objects - correct,
                                       shown - correct))
        return sorted(rows, key=lambda row: (row.score, -row.missed - row.wrong, row.correct, row.image_id))

    def picture(self, image_id: int) -> dict[str, np.ndarray]:
        """``ground truth`` and ``detections`` of an image, HWC uint8: blue is right, orange is wrong or missed."""
        return pictures_of([self], ["detections"], image_id)

    def objects(self, image_id: int, masks: bool = False) -> Instances:
        """The objects of an image, crowds left out."""
        records = self._records.get(image_id, [])
        boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        shapes = [record.get("segmentation") for record in records]
        size = self.truth.images[image_id]["height"], self.truth.images[image_id]["width"]
        return Instances(boxes, np.array([self._label_of[record["category_id"]] for record in records], np.int64),
                         masks=decode_masks(shapes, size) if masks and all(shapes) else None)

    def found(self, image_id: int, masks: bool = False) -> Instances:
        """The detections of an image that count: not those in crowds, nor (LVIS) of classes it was not searched for."""
        found: Detections = self.detections
        start, end = np.searchsorted(found.image_ids, [image_id, image_id + 1])
        rows = start + np.flatnonzero(self.verdicts.verdict[start:end] != VERDICTS.index(IGNORED))
        size = self.truth.images[image_id]["height"], self.truth.images[image_id]["width"]
        shapes = [found.masks[row] for row in rows] if masks and found.masks is not None else None
        return Instances(found.boxes[rows], found.labels[rows], found.scores[rows],
                         None if shapes is None else decode_masks(shapes, size))

    def file_name(self, image_id: int) -> str:
        """The name of an image's file."""
        return image_path(self._image(image_id), "").name

    def pixels(self, image_id: int) -> np.ndarray:
        """An image, HWC uint8 RGB. Raises UserError where it cannot be read."""
        path = image_path(self._image(image_id), self.run.images or "")
        try:
            with PilImage.open(path) as file:
                return np.asarray(file.convert("RGB"))
        except OSError as error:
            raise UserError(f"{path}: cannot read the image ({error})") from error

    def _image(self, image_id: int) -> Image:
        record = self.truth.images[image_id]
        names = {key: record[key] for key in ("file_name", "coco_url") if record.get(key)}
        return Image(image_id, record["height"], record["width"], **names)

    @cached_property
    def _label_of(self) -> dict[int, int]:
        return {int(category): label for label, category in enumerate(self.truth.category_ids)}

    @cached_property
    def _records(self) -> dict[int, list[dict]]:
        by_image: dict[int, list[dict]] = {}
        for record in self.truth.coco.anns.values():
            if record["category_id"] in self._label_of and not record.get("iscrowd"):
                by_image.setdefault(record["image_id"], []).append(record)
        return by_image


def pictures_of(runs: Sequence[RunResults], titles: Sequence[str], image_id: int) -> dict[str, np.ndarray]:
    """An image's ground truth, and what each run found in it: title -> HWC uint8. All runs have one dataset."""
    methods = {title: (results.found(image_id, masks=True), results.threshold)
               for title, results in zip(titles, runs)}
    return draw_verdicts(runs[-1].pixels(image_id), runs[-1].objects(image_id, masks=True), methods,
                         runs[-1].split.classes)
