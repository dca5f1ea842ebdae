"""Whether proposals belong to the images that they are kept under, and if not, what was done to them.

Files that are aligned by position and read in another order are this field's costliest silent mistake: nothing fails,
features are wrong. Here the proposals of some images are held against the annotated objects: as they are, those of
other images, and after each of the usual mistakes is undone. What is then found far better tells which one it was.

Legend: G objects, N proposals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovd.evaluation.recall import IOU_THRESHOLDS, LEAST_GAIN, LOWEST_AR100, pairwise_iou

FIRST = 100  # proposals of an image that are looked at
SHIFTS = (1, -1, 2, -2)  # places by which entries are tried
FAR_BETTER = 2.0  # so many times as much recall as before, and
CLEARLY = 15.0  # points more: a mistake that is undone
HARDLY = 5.0  # points more than by chance: no sign that they belong together
FEWEST = 5  # objects that a judgement needs

Boxes = Callable[[int], np.ndarray | None]  # image id -> proposals [N, 4] xyxy, best first; None where there are none


@dataclass(frozen=True)
class Alignment:
    """What :func:`check_alignment` found; recall in per cent, over IoU 0.50:0.95 with the first 100 proposals.

    Attributes:
        recall: of the proposals as they are.
        by_chance: of the proposals of other images.
        problem: what is wrong, and what probably happened; None for nothing.
    """

    recall: float
    by_chance: float
    problem: str | None = None


def check_alignment(objects: Mapping[int, np.ndarray], proposals: Boxes, sizes: Mapping[int, tuple[int, int]],
                    order: Sequence[int]) -> Alignment | None:
    """Hold proposals against objects.

    Args:
        objects: image id -> boxes ``[G, 4]`` xyxy of a sample of images (50 are plenty).
        proposals: of any image.
        sizes: image id -> width and height in pixels, of the sample.
        order: all image ids, in the order of the annotation file.

    Returns:
        None where there are too few objects to judge.
    """
    objects = {image_id: boxes for image_id, boxes in objects.items() if len(boxes)}
    if sum(map(len, objects.values())) < FEWEST or len(objects) < 2:
        return None
    own = _recall(objects, proposals)
    chance = _recall(objects, _of_others(list(objects), proposals))
    best, explanation = max(((_recall(objects, boxes), words) for words, boxes in
                             _mistakes(proposals, sizes, list(order))), key=lambda found: found[0])
    if best >= FAR_BETTER * own and best >= own + CLEARLY:
        problem = f"they find {best:.0f} % when {explanation}"
    elif own > LEAST_GAIN * chance and own >= LOWEST_AR100:
        return Alignment(own, chance)
    elif own <= max(LEAST_GAIN * chance, chance + HARDLY):
        problem = (f"the proposals of other images find {chance:.0f} %: these belong to other images, or the proposal "
                   "network is hardly trained")
    else:
        problem = "a trained proposal network finds 35 to 45 % on photos: check the network, and what it was trained on"
    return Alignment(own, chance, f"the proposals find only {own:.0f} % of the objects (AR@{FIRST}); {problem}")


def best_overlaps(objects_G4: np.ndarray, proposals_N4: np.ndarray | None, first: int = FIRST) -> np.ndarray:
    """IoU of each object with the proposal that fits it best, of the ``first`` ones: float64 ``[G]``, 0 for none."""
    if proposals_N4 is None or not len(proposals_N4) or not len(objects_G4):
        return np.zeros(len(objects_G4))
    return pairwise_iou(objects_G4, proposals_N4[:first]).max(axis=1)


def _recall(objects: Mapping[int, np.ndarray], proposals: Boxes) -> float:
    best_G = np.concatenate([best_overlaps(boxes, proposals(image_id)) for image_id, boxes in objects.items()])
    return float(100 * (best_G[:, None] >= IOU_THRESHOLDS).mean())


def _of_others(images: Sequence[int], proposals: Boxes) -> Boxes:
    """Those of the image half the sample away: no shift by a few places is taken for chance."""
    away = max(1, len(images) // 2)
    other = {image_id: images[(place + away) % len(images)] for place, image_id in enumerate(images)}
    return lambda image_id: proposals(other[image_id])


def _mistakes(proposals: Boxes, sizes: Mapping[int, tuple[int, int]],
              order: list[int]) -> list[tuple[str, Boxes]]:
    """What can have happened, and the proposals with it undone."""
    ascending = sorted(order)
    found = []
    for by in SHIFTS:
        which = f"{'previous' if by < 0 else 'next'} image" if abs(by) == 1 else \
            f"image {abs(by)} places {'before' if by < 0 else 'after'}"
        for ids, called in ((ascending, "by ascending id"), (order, "in the annotation file's order")):
            found.append((f"each image takes those of the {which} ({called}): the entries are shifted by {abs(by)}; "
                          "import or extract them again, keyed by image id", _moved(proposals, ids, by)))
    if ascending != order:
        for there, here, said, wanted in ((ascending, order, "sorted", "json"), (order, ascending, "json", "sorted")):
            found.append((f"they are read in the other order: import the file again with --order {wanted} (this looks "
                          f"like --order {said})", _reordered(proposals, there, here)))
    found += [(f"{words}: import or extract them again, in pixels of the original image, x1 y1 x2 y2",
               _changed(proposals, sizes, undo)) for words, undo in _GEOMETRY]
    return found


def _moved(proposals: Boxes, ids: list[int], by: int) -> Boxes:
    place = {image_id: number for number, image_id in enumerate(ids)}
    return lambda image_id: proposals(ids[(place[image_id] + by) % len(ids)])


def _reordered(proposals: Boxes, there: list[int], here: list[int]) -> Boxes:
    other = dict(zip(here, there))
    return lambda image_id: proposals(other[image_id])


def _changed(proposals: Boxes, sizes: Mapping[int, tuple[int, int]],
             undo: Callable[[np.ndarray, int, int], np.ndarray]) -> Boxes:
    def boxes(image_id: int) -> np.ndarray | None:
        found = proposals(image_id)
        return None if found is None or not len(found) else undo(np.asarray(found, np.float64), *sizes[image_id])

    return boxes


def _from_network_size(boxes_N4: np.ndarray, width: int, height: int) -> np.ndarray:
    """From the size that mmdet's configs resize to: 1333 x 800 at most."""
    return boxes_N4 / min(1333 / max(width, height), 800 / min(width, height))


def _from_extent(boxes_N4: np.ndarray, width: int, height: int) -> np.ndarray:
    """From the size that the boxes themselves take up."""
    right, bottom = boxes_N4[:, 2:].max(axis=0)
    return boxes_N4 / max(right / width, bottom / height, 1e-9)


_GEOMETRY: tuple[tuple[str, Callable[[np.ndarray, int, int], np.ndarray]], ...] = (
    ("they are scaled down from 1333 x 800, the network's input", _from_network_size),
    ("they are scaled to the size of the image", _from_extent),
    ("they are taken as shares of the image's width and height", lambda boxes, w, h: boxes * [w, h, w, h]),
    ("they are taken as x, y, width, height", lambda boxes, w, h: np.hstack([boxes[:, :2],
                                                                            boxes[:, :2] + boxes[:, 2:]])),
    ("x and y change places", lambda boxes, w, h: boxes[:, [1, 0, 3, 2]]),
)
