"""What is wrong with detections, and what each kind of error costs: TIDE (Bolya et al., ECCV 2020).

A detection that takes no object is one of (section 2.2 of the paper; IoU t_f = 0.5, t_b = 0.1):

- ``localisation``: t_b <= IoU <= t_f with an object of its class;
- ``classification``: IoU >= t_f with an object of another class;
- ``duplicate``: IoU >= t_f with an object of its class, which a detection with a higher score has taken;
- ``background``: IoU <= t_b with every object;
- ``both``: t_b <= IoU <= t_f with objects of other classes only;

and an object that no detection takes, and that no correction of a localisation or classification would find, is
``missed``. What a kind costs is how much AP50 would rise if an oracle corrected it and it alone (section 2.3): the best
detection of an object is moved or renamed, others of the kind are removed, missed objects are no longer asked for.

Crowds, and LVIS's images in which a class was not looked for, count for nothing, as in AP.

Legend: N detections, G objects, C classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovd.evaluation.average_precision import PROTOCOLS, Detections, GroundTruth
from ovd.evaluation.recall import pairwise_iou

FOREGROUND, BACKGROUND = 0.5, 0.1
ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CORRECT, IGNORED = "correct", "ignored"
VERDICTS = (*ERRORS[:5], CORRECT, IGNORED)  # of detections; a verdict's number is its place here
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND, _CORRECT, _IGNORED = range(7)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Verdicts:
    """What every detection and every object is.

    Attributes:
        verdict: ``[N]`` place in :data:`VERDICTS`.
        about: ``[N]`` the object that a detection takes, takes again, misnames or misplaces, -1 for none.
        scores, labels: ``[N]`` of the detections.
        objects: ``[G]`` label of each object (crowds are none).
        missed: ``[G]`` bool.
        classes: number of classes.
    """

    verdict: np.ndarray
    about: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    objects: np.ndarray
    missed: np.ndarray
    classes: int

    def counts(self) -> dict[str, int]:
        """How many detections (objects, of ``missed``) are of each kind of error."""
        found = np.bincount(self.verdict, minlength=len(VERDICTS))
        return {**{kind: int(found[VERDICTS.index(kind)]) for kind in ERRORS[:5]}, "missed": int(self.missed.sum())}

    def costs(self, groups: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float]]:
        """Group of classes -> ``ap50`` as it is and kind of error -> by how much it would rise, in per cent.

        NaN where a group has no objects.
        """
        before = self._ap50()
        after = {kind: self._ap50(kind) for kind in ERRORS}
        return {group: {"ap50": _mean(before[labels]), **{kind: _mean(ap[labels]) - _mean(before[labels])
                                                          for kind, ap in after.items()}}
                for group, labels in ((name, np.asarray(members, np.int64)) for name, members in groups.items())}

    def confusions(self, least: float = 0.3) -> dict[tuple[int, int], int]:
        """(class of an object, class it was taken for) -> how often, in detections that score ``least`` or more."""
        wrong = np.flatnonzero((self.verdict == _CLASSIFICATION) & (self.scores >= least))
        pairs = zip(self.objects[self.about[wrong]].tolist(), self.labels[wrong].tolist())
        return dict(Counter(pairs).most_common())

    def _ap50(self, corrected: str = "") -> np.ndarray:
        """AP50 of each class in per cent ``[C]``, after an oracle corrected one kind of error."""
        counted = self.verdict != _IGNORED
        correct, labels = self.verdict == _CORRECT, self.labels
        objects = np.bincount(self.objects, minlength=self.classes)
        if corrected == "missed":
            objects = objects - np.bincount(self.objects[self.missed], minlength=self.classes)
        elif corrected:
            mine = self.verdict == VERDICTS.index(corrected)
            if corrected in ("classification", "localisation"):
                right = mine & self._best_of_its_object()
                correct, labels = correct | right, labels.copy()
                labels[right] = self.objects[self.about[right]]
                mine &= ~right
            counted &= ~mine
        had = np.bincount(self.objects, minlength=self.classes) > 0
        ap = np.full(self.classes, np.nan)
        order = np.argsort(-self.scores, kind="stable")
        order = order[counted[order]]
        order = order[np.argsort(labels[order], kind="stable")]
        ends = np.searchsorted(labels[order], np.arange(self.classes + 1))
        for label in np.flatnonzero(had):
            ap[label] = _average_precision(correct[order[ends[label]:ends[label + 1]]], int(objects[label]))
        return 100 * ap

    def _best_of_its_object(self) -> np.ndarray:
        """``[N]`` whether a detection is the best of those that could be corrected to an object nobody has taken."""
        taken = np.zeros(len(self.objects), bool)
        taken[self.about[self.verdict == _CORRECT]] = True
        candidates = np.flatnonzero((self.verdict <= _LOCALISATION) & ~taken[self.about])
        candidates = candidates[np.argsort(-self.scores[candidates], kind="stable")]
        _, first = np.unique(self.about[candidates], return_index=True)
        best = np.zeros(len(self.scores), bool)
        best[candidates[first]] = True
        return best


def judge(truth: GroundTruth, detections: Detections, protocol: str = "coco",
          image_ids: Sequence[int] | None = None) -> Verdicts:
    """A verdict on every detection and every object, by boxes.

    Args:
        truth: the ground truth; objects of classes that are not evaluated do not exist.
        detections: at most 100 of a class and image count (LVIS: 300 of an image).
        protocol: ``coco`` or ``lvis``.
        image_ids: the images that were searched; None for those of the file.
    """
    images = sorted(truth.images if image_ids is None else image_ids)
    label_of = {int(category): label for label, category in enumerate(truth.category_ids)}
    boxes, labels, crowds = _objects(truth, label_of)
    verdict = np.full(len(detections), _IGNORED)
    about = np.full(len(detections), -1)
    order = np.lexsort((-detections.scores, detections.image_ids))
    starts = np.searchsorted(detections.image_ids[order], images)
    ends = np.searchsorted(detections.image_ids[order], images, side="right")
    all_labels, all_missed, offset = [], [], 0
    for image_id, start, end in zip(images, starts.tolist(), ends.tolist()):
        mine = _counted(order[start:end], detections.labels, protocol)
        objects_G4, labels_G, crowd_G = (part.get(image_id) for part in (boxes, labels, crowds))
        if objects_G4 is None:
            objects_G4, labels_G, crowd_G = np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, bool)
        unknown, partial = _unverified(truth, image_id, label_of, labels_G, protocol)
        if unknown is not None:
            mine = mine[np.isin(detections.labels[mine], unknown)]
        verdict[mine], about_mine, missed = _judge_image(detections.boxes[mine], detections.labels[mine], objects_G4,
                                                         labels_G, crowd_G, partial)
        real = np.cumsum(~crowd_G) - 1 + offset  # numbers of objects, crowds left out
        about[mine] = np.where(about_mine >= 0, real[about_mine] if len(real) else -1, -1)
        all_labels.append(labels_G[~crowd_G])
        all_missed.append(missed[~crowd_G])
        offset += int((~crowd_G).sum())
    none = np.empty(0, np.int64)
    return Verdicts(verdict, about, np.asarray(detections.scores, np.float64), np.asarray(detections.labels, np.int64),
                    np.concatenate([none, *all_labels]), np.concatenate([none.astype(bool), *all_missed]),
                    len(truth.classes))


def _judge_image(boxes_N4: np.ndarray, labels_N: np.ndarray, objects_G4: np.ndarray, labels_G: np.ndarray,
                 crowd_G: np.ndarray, partial: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdict and object of each detection of an image (best score first), and whether each object is missed.

    ``partial``: labels of which not all objects are annotated; a detection of one that takes none is ignored.
    """
    verdict, about = np.full(len(boxes_N4), _BACKGROUND), np.full(len(boxes_N4), -1)
    usable, taken = np.zeros((2, len(objects_G4)), bool)
    iou_NG = pairwise_iou(boxes_N4, objects_G4)
    iou_NG[:, crowd_G] = 0.0
    same_NG = labels_N[:, None] == labels_G[None, :]
    for index in range(len(boxes_N4)):
        free = np.where(same_NG[index] & ~taken, iou_NG[index], 0.0)
        best = len(free) - 1 - int(free[::-1].argmax()) if len(free) else -1  # of equal ones the last, as in COCO
        if best >= 0 and free[best] >= FOREGROUND:
            verdict[index], about[index], taken[best] = _CORRECT, best, True
    if not len(objects_G4):
        verdict[np.isin(labels_N, partial)] = _IGNORED
        return verdict, about, taken
    same, other = np.where(same_NG, iou_NG, 0.0), np.where(same_NG, 0.0, iou_NG)
    used = np.where(taken, same, 0.0)
    near, overlaps, repeated = same.argmax(axis=1), other.argmax(axis=1), used.argmax(axis=1)
    rows = np.arange(len(boxes_N4))
    wrong = verdict != _CORRECT
    tests = ((_LOCALISATION, (same[rows, near] >= BACKGROUND) & (same[rows, near] <= FOREGROUND), near),
             (_CLASSIFICATION, other[rows, overlaps] >= FOREGROUND, overlaps),
             (_DUPLICATE, used[rows, repeated] >= FOREGROUND, repeated),
             (_BACKGROUND, iou_NG.max(axis=1) <= BACKGROUND, np.full(len(rows), -1)),
             (_BOTH, np.ones(len(rows), bool), overlaps))
    open_ = wrong.copy()
    for kind, holds, target in tests:  # the first that holds
        now = open_ & holds
        verdict[now], about[now] = kind, target[now]
        open_ &= ~now
    ignored = wrong & (np.isin(labels_N, partial) | _in_crowd(boxes_N4, labels_N, objects_G4, labels_G, crowd_G))
    verdict[ignored], about[ignored] = _IGNORED, -1
    about[verdict == _BOTH] = -1
    usable[about[(verdict == _LOCALISATION) | (verdict == _CLASSIFICATION)]] = True
    return verdict, about, ~taken & ~usable


def _in_crowd(boxes_N4: np.ndarray, labels_N: np.ndarray, objects_G4: np.ndarray, labels_G: np.ndarray,
              crowd_G: np.ndarray) -> np.ndarray:
    """Whether half of a detection lies in a crowd of its class."""
    crowds_K4, labels_K = objects_G4[crowd_G], labels_G[crowd_G]
    low = np.maximum(boxes_N4[:, None, :2], crowds_K4[None, :, :2])
    high = np.minimum(boxes_N4[:, None, 2:], crowds_K4[None, :, 2:])
    inside_NK = (high - low).clip(min=0).prod(axis=2)
    area_N = (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(axis=1)
    return ((inside_NK >= FOREGROUND * area_N[:, None]) & (labels_N[:, None] == labels_K[None, :])).any(axis=1)


def _objects(truth: GroundTruth, label_of: Mapping[int, int]) -> tuple[dict, dict, dict]:
    """Boxes, labels and crowd flags of each image's objects, by image id."""
    rows: dict[int, list[tuple]] = {}
    for record in truth.coco.anns.values():
        label = label_of.get(record["category_id"])
        if label is not None:
            x, y, width, height = record["bbox"]
            rows.setdefault(record["image_id"], []).append((x, y, x + width, y + height, label,
                                                            bool(record.get("iscrowd"))))
    boxes, labels, crowds = {}, {}, {}
    for image_id, found in rows.items():
        table = np.array(found, np.float64)
        boxes[image_id], labels[image_id] = table[:, :4], table[:, 4].astype(np.int64)
        crowds[image_id] = table[:, 5] > 0
    return boxes, labels, crowds


def _counted(mine: np.ndarray, labels: np.ndarray, protocol: str) -> np.ndarray:
    """The detections of an image, best first, that count: so many of the image (LVIS) or of each class (COCO)."""
    limit = PROTOCOLS[protocol]
    if protocol == "lvis" or len(mine) <= limit:
        return mine[:limit]
    seen: dict[int, int] = {}
    kept = []
    for index in mine.tolist():
        label = int(labels[index])
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= limit:
            kept.append(index)
    return np.array(kept, np.int64)


def _unverified(truth: GroundTruth, image_id: int, label_of: Mapping[int, int], labels_G: np.ndarray,
                protocol: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Of LVIS: the labels that were looked for in an image (None: all), and those not annotated to the last object."""
    if protocol != "lvis":
        return None, np.empty(0, np.int64)
    record = truth.images[image_id]
    absent, partial = ([label_of[category] for category in record.get(key) or () if category in label_of]
                       for key in ("neg_category_ids", "not_exhaustive_category_ids"))
    return np.union1d(labels_G, absent).astype(np.int64), np.array(partial, np.int64)


def _average_precision(correct: np.ndarray, objects: int) -> float:
    """COCO's AP at one threshold: precision made monotone, at 101 recalls. ``correct`` is in order of score."""
    if objects == 0:  # all of them were missed, and are no longer asked for
        return 0.0
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / objects, _RECALLS, side="left")
    return float(np.where(places < len(correct), np.append(precision, 0.0)[places], 0.0).mean())


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
