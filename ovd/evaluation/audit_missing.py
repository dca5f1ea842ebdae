"""Objects that may have been forgotten: proposals that look like annotated objects and overlap none.

Legend: P proposals of an image, A annotated boxes of it, N annotated objects in all, K neighbours.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ovd.evaluation.audit_labels import vote
from ovd.evaluation.audit_neighbours import BLOCK, Index, first_elsewhere
from ovd.evaluation.recall import pairwise_iou
from ovd.fewshot.annotated import AnnotatedObjects
from ovd.stores.shards import RegionStore

MOST_ALIKE = 5  # neighbours of the class that a likeness is the mean over
LEAST_LIKE = 0.05  # share of the class's objects that are less like their neighbours


@dataclass(frozen=True)
class Missing:
    """A proposal that may be an object without annotation.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        label: The class that it looks like.
        probability: Of the class, by its neighbours (and by CLIP's text, where there is a class head).
        typical: Share of the class's objects that are less like their neighbours than it is.
        objectness: The proposal's own score.
        neighbour: Row of the object of that class that is most like it.
    """

    image_id: int
    box: tuple[float, float, float, float]
    label: int
    probability: float
    typical: float
    objectness: float
    neighbour: int

    @property
    def score(self) -> float:
        """What they are ranked by, 0 to 1: the geometric mean of probability, typicality and objectness."""
        return float(np.cbrt(self.probability * self.typical * max(self.objectness, 0.0)))


def likeness(scores_BK: np.ndarray, same_BK: np.ndarray) -> np.ndarray:
    """Mean cosine ``[B]`` of the ``MOST_ALIKE`` best neighbours that are ``same_BK``; -inf where none is."""
    used = same_BK & (np.cumsum(same_BK, axis=1) <= MOST_ALIKE)
    counts = used.sum(axis=1)
    return np.divide(np.where(used, scores_BK, 0).sum(axis=1), counts, out=np.full(len(counts), -np.inf),
                     where=counts > 0)


def free_proposals(proposals_P4: np.ndarray, annotated_A4: np.ndarray, most_iou: float = 0.2,
                   most_inside: float = 0.5) -> np.ndarray:
    """Which proposals are of no annotated object: bool ``[P]``.

    One that overlaps an annotated box by an IoU above ``most_iou``, or lies in it with more than ``most_inside`` of its
    area, shows that object or a part of it.
    """
    if not len(annotated_A4) or not len(proposals_P4):
        return np.ones(len(proposals_P4), bool)
    iou_PA = pairwise_iou(proposals_P4, annotated_A4)
    area_P = (proposals_P4[:, 2:] - proposals_P4[:, :2]).prod(axis=1)
    area_A = (annotated_A4[:, 2:] - annotated_A4[:, :2]).prod(axis=1)
    overlap_PA = iou_PA * (area_P[:, None] + area_A) / (1 + iou_PA)
    return ((iou_PA <= most_iou) & (overlap_PA <= most_inside * area_P[:, None])).all(axis=1)


class MissingFinder:
    """Looks for forgotten objects among a store's proposals.

    Args:
        objects: The annotated ones.
        index: Over their rows.
        own: Of every annotated object its likeness to its neighbours of the same label (:func:`likeness`), ``[N]``.
        text: Unit rows ``[B, D]`` to CLIP's class probabilities ``[B, C]``; None without a class head.
        k: Neighbours that vote.
    """

    def __init__(self, objects: AnnotatedObjects, index: Index, own: np.ndarray,
                 text: Callable[[np.ndarray], np.ndarray] | None, text_weight: float, k: int) -> None:
        self.objects, self.index, self.text, self.text_weight, self.k = objects, index, text, text_weight, k
        order = np.lexsort((own, objects.labels))
        ends = np.searchsorted(objects.labels[order], np.arange(len(objects.names) + 1))
        self._own_of_class = [own[order[a:b]] for a, b in pairwise(ends)]

    def find(self, proposals: RegionStore, annotated: Mapping[int, np.ndarray], per_image: int = 30,
             least: float = 0.5, progress: Callable[[int], None] = lambda images: None) -> list[Missing]:
        """Forgotten objects, the most likely first, one at a place.

        Args:
            proposals: A region store of proposals, made with the same CLIP; images that are not annotated are left out.
            annotated: image id -> all annotated boxes ``[A, 4]`` x1, y1, x2, y2, crowds and other classes included.
            per_image: The proposals of an image that are looked at, the first ones (of the highest scores).
            least: Lowest probability of the class.
        """
        found: list[Missing] = []
        for ids_B, boxes_B4, objectness_B, rows_BD in self._blocks(proposals, annotated, per_image, progress):
            found += self._judge(ids_B, boxes_B4, objectness_B, rows_BD, least)
        return _one_at_a_place(found)

    def _blocks(self, proposals: RegionStore, annotated: Mapping[int, np.ndarray], per_image: int,
                progress: Callable[[int], None]) -> Iterator[tuple[np.ndarray, ...]]:
        waiting: list[tuple[np.ndarray, ...]] = []
        for image_id in proposals.image_ids.tolist():
            progress(1)
            if image_id not in annotated:
                continue
            regions = proposals.view(image_id)
            boxes = regions.boxes[:per_image]
            free = np.flatnonzero(free_proposals(boxes, annotated[image_id]))
            waiting.append((np.full(len(free), image_id), boxes[free], regions.scores[free],
                            regions.embeddings[free].astype(np.float32)))
            if sum(len(part[0]) for part in waiting) >= BLOCK:
                yield tuple(map(np.concatenate, zip(*waiting)))
                waiting = []
        if any(len(part[0]) for part in waiting):
            yield tuple(map(np.concatenate, zip(*waiting)))

    def _judge(self, ids_B: np.ndarray, boxes_B4: np.ndarray, objectness_B: np.ndarray, rows_BD: np.ndarray,
               least: float) -> list[Missing]:
        objects = self.objects
        place_B = np.searchsorted(objects.store.image_ids, ids_B)
        per_image = np.diff(objects.row_map.offsets)
        wide = min(self.k + int(per_image[place_B].max()), len(objects))
        scores, rows = first_elsewhere(*self.index.search(rows_BD, wide), place_B, objects.image_of, self.k)
        chances = vote(scores, rows, objects.labels, len(objects.names))
        if self.text is not None:
            chances = (1 - self.text_weight) * chances + self.text_weight * self.text(rows_BD)
        label_B = chances.argmax(axis=1)
        same = (rows >= 0) & (objects.labels[rows] == label_B[:, None])
        alike_B = likeness(scores, same)
        nearest_B = np.take_along_axis(rows, same.argmax(axis=1)[:, None], axis=1)[:, 0]
        found = []
        for i in np.flatnonzero((chances.max(axis=1) >= least) & same.any(axis=1)).tolist():
            own = self._own_of_class[label_B[i]]
            typical = float(np.searchsorted(own, alike_B[i]) / max(len(own), 1))
            if typical >= LEAST_LIKE:
                found.append(Missing(int(ids_B[i]), tuple(map(float, boxes_B4[i])), int(label_B[i]),
                                     float(chances[i].max()), typical, float(objectness_B[i]), int(nearest_B[i])))
        return found


def _one_at_a_place(found: list[Missing], most_iou: float = 0.5) -> list[Missing]:
    """The best first; one that overlaps a better one of its image, of whatever class, is left out."""
    kept: dict[int, list[Missing]] = {}
    ordered = sorted(found, key=lambda one: (-one.score, one.image_id, one.box))
    result = []
    for one in ordered:
        others = kept.setdefault(one.image_id, [])
        if not others or pairwise_iou([one.box], [other.box for other in others]).max() <= most_iou:
            others.append(one)
            result.append(one)
    return result
