"""Average recall of class-agnostic proposals: how many of the objects do the first k boxes of an image find?

AR@k is COCO's ``useCats=0`` recall over all areas, averaged over IoU 0.50:0.95 in steps of 0.05. Boxes take objects
greedily in order of score, each the best one that is still free. Groups of classes (base, novel, ...) are evaluated
apart, each as if only its own objects were annotated: a box spent on a base object costs novel classes nothing but
its place among the k, and a figure does not depend on which other groups are asked for. Crowds are no objects here.

Legend: G objects, N proposals, T IoU thresholds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LIMITS = (100, 300, 1000)
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

# The self-check: below this AR@100 (per cent), or with so small a gain over other images' proposals, something is off.
# Aligned proposals of a trained RPN reach 35 to 45 on COCO and LVIS, shuffled ones 0 to 10.
LOWEST_AR100 = 15.0
LEAST_GAIN = 1.5


@dataclass(frozen=True)
class ImageBoxes:
    """What one image contributes: its objects (without crowds) and its proposals, best first, in the same pixels."""

    objects_G4: np.ndarray
    labels_G: np.ndarray
    proposals_N4: np.ndarray


@dataclass(frozen=True)
class Recall:
    """Recall of one group of classes, in per cent, keyed by the number of proposals an image; NaN without objects."""

    objects: int
    average: dict[int, float]
    at_50: dict[int, float]


def pairwise_iou(boxes_G4: np.ndarray, others_N4: np.ndarray) -> np.ndarray:
    """IoU [G, N] of boxes in xyxy; the extent is ``x2 - x1``, as in COCO."""
    boxes_G4 = np.asarray(boxes_G4, np.float64)
    others_N4 = np.asarray(others_N4, np.float64)
    corner_low = np.maximum(boxes_G4[:, None, :2], others_N4[None, :, :2])
    corner_high = np.minimum(boxes_G4[:, None, 2:], others_N4[None, :, 2:])
    overlap_GN = (corner_high - corner_low).clip(min=0).prod(axis=2)
    area_G = (boxes_G4[:, 2:] - boxes_G4[:, :2]).prod(axis=1)
    area_N = (others_N4[:, 2:] - others_N4[:, :2]).prod(axis=1)
    union_GN = area_G[:, None] + area_N[None, :] - overlap_GN
    return np.divide(overlap_GN, union_GN, out=np.zeros_like(overlap_GN), where=union_GN > 0)


def matched_ranks(objects_G4: np.ndarray, proposals_N4: np.ndarray) -> np.ndarray:
    """Rank (0-based) of the proposal that takes each object at each IoU threshold: int64 [T, G], N where none does.

    One pass serves every k, since the first k proposals are matched without regard to those after them.
    """
    count = len(proposals_N4)
    ranks_TG = np.full((len(IOU_THRESHOLDS), len(objects_G4)), count, np.int64)
    if not count or not len(objects_G4):
        return ranks_TG
    iou_NG = pairwise_iou(objects_G4, proposals_N4).T
    rank_P, object_P = np.nonzero(iou_NG >= IOU_THRESHOLDS[0])
    iou_P = iou_NG[rank_P, object_P]
    # By rank, then the best object first; of two with equal IoU, COCO takes the later one.
    order = np.lexsort((-object_P, -iou_P, rank_P))
    # Sets of thresholds are bits of an integer, so that one step settles all of them.
    reached_P = (1 << np.searchsorted(IOU_THRESHOLDS, iou_P, side="right")) - 1
    all_thresholds = (1 << len(IOU_THRESHOLDS)) - 1
    free = [all_thresholds] * len(objects_G4)
    current, unused = -1, 0
    for rank, index, reached in zip(rank_P[order].tolist(), object_P[order].tolist(), reached_P[order].tolist()):
        if rank != current:
            current, unused = rank, all_thresholds
        taken = unused & free[index] & reached
        if taken:
            unused &= ~taken
            free[index] &= ~taken
            for row in range(taken.bit_length()):
                if taken >> row & 1:
                    ranks_TG[row, index] = rank
    return ranks_TG


def proposal_recall(images: Iterable[ImageBoxes], groups: Mapping[str, Iterable[int]],
                    limits: Sequence[int] = LIMITS) -> dict[str, Recall]:
    """Recall of every group of labels over ``images``, in one pass that holds one image at a time."""
    labels = {name: np.fromiter(members, np.int64) for name, members in groups.items()}
    objects = dict.fromkeys(labels, 0)
    found = {name: np.zeros((len(limits), len(IOU_THRESHOLDS)), np.int64) for name in labels}
    for image in images:
        for name, members in labels.items():
            objects_G4 = image.objects_G4[np.isin(image.labels_G, members)]
            if not len(objects_G4):
                continue
            objects[name] += len(objects_G4)
            ranks_TG = matched_ranks(objects_G4, image.proposals_N4[: max(limits)])
            available = min(len(image.proposals_N4), max(limits))
            for row, limit in enumerate(limits):
                found[name][row] += (ranks_TG < min(limit, available)).sum(axis=1)
    result = {}
    for name in labels:
        rate = 100 * found[name] / objects[name] if objects[name] else np.full(found[name].shape, np.nan)
        result[name] = Recall(objects[name], dict(zip(limits, rate.mean(axis=1).tolist())),
                              dict(zip(limits, rate[:, 0].tolist())))
    return result


def recall_table(recalls: Mapping[str, Recall]) -> str:
    """The figures as text, a line per group; ``-`` where a group has no annotated object."""
    limits = list(next(iter(recalls.values())).average)
    columns = ["group", "objects", *(f"AR@{k}" for k in limits), *(f"R50@{k}" for k in limits)]
    rows = [columns]
    for name, recall in recalls.items():
        figures = [*recall.average.values(), *recall.at_50.values()]
        rows.append([name, str(recall.objects), *("-" if np.isnan(f) else f"{f:.1f}" for f in figures)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def alignment_warning(images: Sequence[ImageBoxes]) -> str | None:
    """Why the proposals may belong to other images, or None.

    The proposals' AR@100 is held against that of the same proposals shifted by one image. Files that are aligned by
    position and read in another order are this field's costliest silent mistake: nothing fails, features are wrong.
    ``images`` is a sample (200 are plenty) with at least two images that have objects.
    """
    images = [image for image in images if len(image.objects_G4)]
    if len(images) < 2:
        return None
    everything = {"all": np.unique(np.concatenate([image.labels_G for image in images]))}
    shifted = [ImageBoxes(image.objects_G4, image.labels_G, other.proposals_N4)
               for image, other in zip(images, [*images[1:], images[0]])]
    own = proposal_recall(images, everything, (100,))["all"].average[100]
    other = proposal_recall(shifted, everything, (100,))["all"].average[100]
    if own <= LEAST_GAIN * other:
        return (f"AR@100 is {own:.1f} on {len(images)} images, and {other:.1f} with the proposals of other images: "
                "boxes and images may be out of order, or the proposal network is hardly trained")
    if own < LOWEST_AR100:
        return (f"AR@100 is only {own:.1f} on {len(images)} images (a trained proposal network reaches 35 to 45 on "
                "photos): check the proposal network and the order of the images")
    return None
