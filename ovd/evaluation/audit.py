"""An audit of annotations: labels that are probably wrong, duplicates, objects that may have been forgotten.

Everything is judged by the objects' cached embeddings; pixels are only compared to confirm duplicates.

Legend: N objects, B of them in a block, C classes, K neighbours.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovd.evaluation.audit_duplicates import (
    connected_groups,
    double_boxes,
    image_pairs,
    same_place,
    similar_pairs,
)
from ovd.evaluation.audit_labels import (
    LabelScores,
    best_other,
    blend,
    confident_class,
    confident_thresholds,
    vote,
)
from ovd.evaluation.audit_missing import Missing, likeness
from ovd.evaluation.audit_neighbours import BLOCK, Index, first_elsewhere, neighbours_elsewhere
from ovd.evaluation.audit_pictures import Pictures, correlations
from ovd.fewshot.annotated import AnnotatedObjects

SPARE = 16  # neighbours that are looked up beyond k: some may turn out to be in duplicates of the object's image

TextClasses = Callable[[np.ndarray], np.ndarray]
"""Unit rows float32 ``[B, D]`` to CLIP's class probabilities ``[B, C]``, which sum to 1."""


@dataclass(frozen=True)
class Settings:
    """What counts as suspicious.

    Attributes:
        k: Neighbours that vote on a label.
        text_weight: Of CLIP's text classes against the vote, 0 to 1.
        few: A label with fewer objects than this elsewhere is judged by the text alone, or not at all.
        image_cosine: Objects that two images share are at least so similar, and at the same place.
        image_correlation: Correlation of small grey pictures from which two images with shared objects are duplicates.
        object_cosine, object_correlation: The same for an object that occurs in two different images.
        object_pairs: The most similar pairs of objects are compared, so many.
        double_iou: Boxes of one image that overlap more are of one object.
    """

    k: int = 20
    text_weight: float = 0.5
    few: int = 5
    image_cosine: float = 0.85
    image_correlation: float = 0.9
    object_cosine: float = 0.99
    object_correlation: float = 0.98
    object_pairs: int = 2000
    double_iou: float = 0.9


@dataclass(frozen=True)
class ImageGroup:
    """Images that are (nearly) the same.

    Attributes:
        image_ids: Ascending.
        shared: Objects that every pair found similar has in common, at least.
        correlation: Of their grey pictures, the lowest of such pairs.
        mirrored: Whether some are mirrored left to right.
    """

    image_ids: tuple[int, ...]
    shared: int
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class ObjectGroup:
    """Objects in different images that have (nearly) the same pixels; rows of the objects, ascending."""

    rows: tuple[int, ...]
    cosine: float
    correlation: float


@dataclass(frozen=True)
class DoubleBox:
    """Two boxes at one place of an image; rows of the objects, ascending."""

    rows: tuple[int, int]
    iou: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What an audit found.

    Attributes:
        neighbours: Rows of the nearest objects in other images that are no duplicates, int32 ``[N, k]``, -1 for none.
        similarity: Their cosines, float32 ``[N, k]``.
        ranking: Rows of objects with suspicious labels, the most suspicious first.
        unseen_pairs: Pairs of similar objects that were not compared, for there are too many.
        missing: Forgotten objects; None where there were no proposals to look at.
    """

    objects: AnnotatedObjects
    settings: Settings
    labels: LabelScores
    neighbours: np.ndarray
    similarity: np.ndarray
    ranking: np.ndarray
    images: Sequence[ImageGroup]
    same_objects: Sequence[ObjectGroup]
    unseen_pairs: int
    doubles: Sequence[DoubleBox]
    missing: Sequence[Missing] | None = field(default=None)

    def confusions(self) -> list[tuple[int, int, int]]:
        """(label, suggested class, objects) of the labels counted as wrong, the most frequent first."""
        wrong = self.ranking[self.labels.confident[self.ranking]]
        pairs = Counter(zip(self.objects.labels[wrong].tolist(), self.labels.suggested[wrong].tolist()))
        return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]

    def class_rows(self) -> list[tuple[int, int, int, float]]:
        """(label, objects, of them counted as wrong, mean probability of the label) of every class with objects."""
        labels, classes = self.objects.labels, len(self.objects.names)
        objects = np.bincount(labels, minlength=classes)
        wrong = np.bincount(labels[self.labels.confident], minlength=classes)
        judged = np.isfinite(self.labels.given)
        given = np.bincount(labels[judged], self.labels.given[judged], classes)
        mean = np.divide(given, np.bincount(labels[judged], minlength=classes), out=np.full(classes, np.nan),
                         where=np.bincount(labels[judged], minlength=classes) > 0)
        return [(i, int(objects[i]), int(wrong[i]), float(mean[i])) for i in np.flatnonzero(objects).tolist()]

    def likeness(self) -> np.ndarray:
        """How alike each object is to its neighbours of the same label, ``[N]``; -inf where it has none."""
        labels = self.objects.labels
        return likeness(self.similarity, (self.neighbours >= 0) & (labels[self.neighbours] == labels[:, None]))


def audit(objects: AnnotatedObjects, index: Index, pictures: Pictures, text: TextClasses | None,
          settings: Settings, progress: Callable[[int], None] = lambda objects: None) -> Findings:
    """Look for wrong labels and duplicates.

    Args:
        index: Over the rows of the objects' store.
        text: None to judge by the neighbours alone.
        progress: Called with the number of objects whose neighbours were found.

    Raises:
        UserError: An image of a duplicate that cannot be read.
    """
    similarity, neighbours = neighbours_elsewhere(index, objects, settings.k + SPARE, progress)
    images, group_of = duplicate_images(objects, similarity, neighbours, pictures, settings)
    same_objects, unseen = duplicate_objects(objects, similarity, neighbours, group_of, pictures, settings)
    place_of = group_of[objects.image_of]
    for start in range(0, len(objects), BLOCK):
        block = slice(start, start + BLOCK)
        similarity[block, :settings.k], neighbours[block, :settings.k] = first_elsewhere(
            similarity[block], neighbours[block], place_of[block], place_of, settings.k)
    similarity, neighbours = similarity[:, :settings.k], neighbours[:, :settings.k]
    labels = judge_labels(objects, similarity, neighbours, group_of, text, settings)
    rows, ious = double_boxes(objects.boxes, objects.row_map.offsets, settings.double_iou)
    doubles = [DoubleBox(tuple(pair), float(iou)) for pair, iou in zip(rows.tolist(), ious)]
    return Findings(objects, settings, labels, neighbours, similarity, labels.ranking(), images, same_objects, unseen,
                    doubles)


def duplicate_images(objects: AnnotatedObjects, similarity: np.ndarray, neighbours: np.ndarray, pictures: Pictures,
                     settings: Settings) -> tuple[list[ImageGroup], np.ndarray]:
    """Groups of duplicate images, and for each image of the store the first one of its group, int64 ``[M]``.

    Two images are duplicates when at least half of the objects of the one that has fewer are similar to objects at the
    same place of the other, and their grey pictures correlate. Each pair is looked at as it is and mirrored.
    """
    ids, offsets = objects.store.image_ids, objects.row_map.offsets
    sizes = np.array([(p.width, p.height) * 2 for p in (pictures.photos[i] for i in ids.tolist())], np.float64)
    places = objects.boxes / sizes[objects.image_of]
    pairs, _ = similar_pairs(similarity, neighbours, settings.image_cosine)
    where = same_place(places[pairs[:, 0]], places[pairs[:, 1]])
    found, shared, turned = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for side in (1, -1):
        candidates, count = image_pairs(pairs[where == side], objects.image_of, np.diff(offsets))
        found.append(candidates)
        shared.append(count)
        turned.append(np.full(len(candidates), side < 0))
    found_Q2, shared_Q, turned_Q = map(np.concatenate, (found, shared, turned))
    alike_Q = correlations(ids[found_Q2].tolist(), pictures.small, turned_Q.tolist())
    same = np.flatnonzero(alike_Q >= settings.image_correlation)
    group_of = connected_groups(len(ids), found_Q2[same])
    groups = []
    for first in np.unique(group_of[found_Q2[same, 0]]).tolist():
        mine = same[group_of[found_Q2[same, 0]] == first]
        groups.append(ImageGroup(tuple(ids[group_of == first].tolist()), int(shared_Q[mine].min()),
                                 float(alike_Q[mine].min()), bool(turned_Q[mine].any())))
    return groups, group_of


def duplicate_objects(objects: AnnotatedObjects, similarity: np.ndarray, neighbours: np.ndarray, group_of: np.ndarray,
                      pictures: Pictures, settings: Settings) -> tuple[list[ObjectGroup], int]:
    """Groups of objects of the same pixels in images that are no duplicates, and how many pairs were not compared."""
    pairs, cosines = similar_pairs(similarity, neighbours, settings.object_cosine)
    groups = group_of[objects.image_of]
    apart = groups[pairs[:, 0]] != groups[pairs[:, 1]]
    pairs, cosines = pairs[apart], cosines[apart]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -cosines))[:settings.object_pairs]
    unseen = len(pairs) - len(order)
    pairs, cosines = pairs[order], cosines[order]
    keys = [tuple((int(objects.image_ids[row]), row) for row in pair) for pair in pairs.tolist()]
    alike = correlations(keys, lambda key: pictures.small(key[0], objects.boxes[key[1]]))
    same = alike >= settings.object_correlation
    pairs, cosines, alike = pairs[same], cosines[same], alike[same]
    members, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(-1, 2)
    group = connected_groups(len(members), place)
    result = []
    for first in np.unique(group).tolist():
        mine = group[place[:, 0]] == first
        result.append(ObjectGroup(tuple(members[group == first].tolist()), float(cosines[mine].min()),
                                  float(alike[mine].min())))
    return result, unseen


def judge_labels(objects: AnnotatedObjects, similarity: np.ndarray, neighbours: np.ndarray, group_of: np.ndarray,
                 text: TextClasses | None, settings: Settings) -> LabelScores:
    """What the neighbours and CLIP think of every label; two passes over the objects, a block at a time."""
    labels, classes = objects.labels, len(objects.names)
    few = _elsewhere(labels, group_of[objects.image_of], classes) < settings.few

    def chances(block: slice, rows_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        voted = vote(similarity[block], neighbours[block], labels, classes)
        if text is None:
            unknown = few[block] | ~voted.any(axis=1)
            return np.where(unknown[:, None], np.nan, voted), voted, np.full(voted.shape, np.nan)
        said = text(rows_BD)
        return blend(voted, said, settings.text_weight, few[block]), voted, said

    given = np.empty(len(objects))
    for block, rows_BD in objects.blocks():
        given[block] = _own(chances(block, rows_BD)[0], labels[block])
    thresholds = confident_thresholds(given, labels, classes)
    suggested, confident = np.empty(len(objects), np.int64), np.empty(len(objects), bool)
    probability, by_vote, by_text = (np.empty(len(objects)) for _ in range(3))
    for block, rows_BD in objects.blocks():
        mixed, voted, said = chances(block, rows_BD)
        sure = confident_class(np.nan_to_num(mixed, nan=-1.0), thresholds)
        confident[block] = (sure >= 0) & (_own(mixed, np.maximum(sure, 0)) > given[block])
        other = np.where(confident[block], sure, best_other(np.nan_to_num(mixed), labels[block]))
        suggested[block], probability[block] = other, _own(mixed, other)
        by_vote[block], by_text[block] = _own(voted, other), _own(said, other)
    return LabelScores(given, suggested, probability, confident, by_vote, by_text)


def _own(values_BC: np.ndarray, classes_B: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values_BC, classes_B[:, None], axis=1)[:, 0]


def _elsewhere(labels_N: np.ndarray, place_N: np.ndarray, classes: int) -> np.ndarray:
    """How many objects of the same label each object has in other places, int64 ``[N]``."""
    _, which, here = np.unique(place_N * classes + labels_N, return_inverse=True, return_counts=True)
    return np.bincount(labels_N, minlength=classes)[labels_N] - here[which.reshape(-1)]
