"""Boxes that may become support of a class: from a search among proposals, or the annotated objects of the class.

Shapes: N candidates, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovd.clip.queries import unit_rows
from ovd.evaluation.audit_duplicates import connected_groups, paired_iou
from ovd.evaluation.audit_pictures import Pictures, correlations
from ovd.evaluation.recall import pairwise_iou
from ovd.fewshot.annotated import AnnotatedObjects
from ovd.fewshot.retrieval import best_of_groups
from ovd.stores.hits import find_hits
from ovd.stores.region_index import RegionIndex
from ovd.stores.shards import RegionStore

SAME_OBJECT = 0.5  # IoU from which two boxes of an image are taken for one object
LOOSELY_SAME = 0.3  # the same for two candidates: loose boxes of an object overlap each other less than they do it
ALIKE, SAME_PIXELS = 0.95, 0.95  # cosine from which the pixels of two candidates are compared, and their correlation

CONTEXT = 0.25  # of a box that is compared with it, on each side: the same thing in the same surroundings

Example = tuple[int, tuple[float, float, float, float]]
"""Image id and box x1, y1, x2, y2 in pixels."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes to choose from, the most relevant first.

    Attributes:
        image_ids, positions: int64 ``[N]``; a position is a row within the image's regions in the store.
        boxes: ``[N, 4]`` x1, y1, x2, y2 in pixels.
        rows: Unit rows float32 ``[N, D]``.
        scores: Cosines to the query, ``[N]``.
    """

    image_ids: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    rows: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: np.ndarray) -> "Candidates":
        """Those at these positions."""
        return Candidates(*(values[which] for values in vars(self).values()))


def searched(index: RegionIndex, store: RegionStore, query_D: np.ndarray, pool: int) -> Candidates:
    """The ``pool`` regions of a store that are most like the query, one of an object."""
    hits = find_hits(index, store, query_D[None], pool)[0]
    rows = [store.view(hit.image_id).embeddings[hit.position] for hit in hits]
    rows_ND = unit_rows(np.array(rows).reshape(-1, store.dim))
    return Candidates(np.array([hit.image_id for hit in hits], np.int64),
                      np.array([hit.position for hit in hits], np.int64),
                      np.array([hit.box for hit in hits]).reshape(-1, 4), rows_ND, rows_ND @ query_D)


def annotated(objects: AnnotatedObjects, label: int, query_D: np.ndarray | None, pool: int) -> Candidates:
    """The ``pool`` annotated objects of a class that are most like the query; without one, most like their mean."""
    mine = np.flatnonzero(objects.labels == label)
    rows_ND = objects.embeddings(mine)
    if query_D is None:
        query_D = unit_rows(rows_ND.sum(axis=0))
    scores = rows_ND @ query_D
    best = np.argsort(-scores, kind="stable")[:pool]
    mine = mine[best]
    positions = mine - objects.row_map.offsets[objects.image_of[mine]]
    return Candidates(objects.image_ids[mine], positions, objects.boxes[mine], rows_ND[best], scores[best])


def without_examples(found: Candidates, examples: Sequence[Example]) -> Candidates:
    """Leave out the objects that are examples."""
    keep = np.ones(len(found), bool)
    for image_id, box in examples:
        keep &= (found.image_ids != image_id) | (pairwise_iou(found.boxes, [box])[:, 0] <= SAME_OBJECT)
    return found.take(np.flatnonzero(keep))


def distinct(found: Candidates, pictures: Pictures) -> Candidates:
    """Leave out boxes of one object, and the same pixels in other images; the most relevant one of each stays.

    Raises:
        UserError: An image that cannot be read.
    """
    first, second = np.triu_indices(len(found), 1)
    here = found.image_ids[first] == found.image_ids[second]
    doubles = here & (paired_iou(found.boxes[first], found.boxes[second]) > LOOSELY_SAME)
    alike = ~here & ((found.rows @ found.rows.T)[first, second] >= ALIKE)
    pairs = np.stack([first, second], axis=1)
    keys = [tuple((int(found.image_ids[i]), int(i)) for i in pair) for pair in pairs[alike].tolist()]
    same = correlations(keys, lambda key: pictures.small(key[0], found.boxes[key[1]], CONTEXT)) >= SAME_PIXELS
    group = connected_groups(len(found), np.concatenate([pairs[doubles], pairs[alike][same]]))
    return found.take(best_of_groups(found.scores, group))
