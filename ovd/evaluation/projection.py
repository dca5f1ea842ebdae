"""Class vectors and embeddings of annotated regions on a plane: do regions lie where the names of their classes are?

Names and regions come from two towers of CLIP, which lie in cones of their own, so each kind is centred. The plane is
that of the two directions in which the names, and the means of each class's regions, vary most (PCA). Nearness on the
plane is a hint, not a measurement.

Legend: C classes, R regions, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovd.evaluation.average_precision import GroundTruth
from ovd.evaluation.exhibits import groups_by_label
from ovd.evaluation.recall import pairwise_iou
from ovd.evaluation.runs import Run
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import RegionStore
from ovd.vocabulary.splits import Split, get_split

MOST_REGIONS, PER_CLASS = 900, 12
SAME_OBJECT = 0.5


@dataclass(frozen=True)
class Projection:
    """Points on a plane.

    Attributes:
        classes: ``[C, 2]``, of the split's classes that the class head has.
        names: their names.
        groups: their groups, such as ``base``.
        regions: ``[R, 2]``.
        labels: ``[R]`` position in ``names`` of each region's class.
        explained: share of the variance of names and of classes' mean regions that the plane shows, 0 to 1.
        nearest: share of the regions whose class vector is, of all, the most similar one in all dimensions, 0 to 1.
        source: the store that the regions are from.
    """

    classes: np.ndarray
    names: Sequence[str]
    groups: Sequence[str]
    regions: np.ndarray
    labels: np.ndarray
    explained: float
    nearest: float
    source: str


def project(run: Run) -> Projection | None:
    """The projection of a run's class head and regions; None where it lacks either, or they are of two widths.

    Of the annotated objects, evenly over the images and at most twelve of a class, the region that overlaps each most
    is taken, if the overlap is 0.5 or more.
    """
    if not (run.class_head and run.regions and run.region_annotations and run.split):
        return None
    split = get_split(run.split)
    head, store = ClassHead.load(run.class_head), RegionStore(run.regions)
    known = [name for name in split.classes if name in head.names]
    if store.dim != head.dim or not known:
        return None
    places = {name: index for index, name in enumerate(head.names)}
    vectors_CD = _unit(head.weights.numpy().mean(axis=1)[[places[name] for name in known]])
    embeddings_RD, labels_R = _regions(store, GroundTruth(run.region_annotations, split.classes), split, known)
    if len(embeddings_RD) < 2:
        return None
    nearest = float(((embeddings_RD @ vectors_CD.T).argmax(axis=1) == labels_R).mean())
    names_CD, regions_RD = (rows - rows.mean(axis=0) for rows in (vectors_CD, embeddings_RD))
    means_CD = np.stack([regions_RD[labels_R == label].mean(axis=0) for label in np.unique(labels_R)])
    _, strengths, directions = np.linalg.svd(np.concatenate([names_CD, means_CD]), full_matrices=False)
    points = np.concatenate([names_CD, regions_RD]) @ directions[:2].T
    points = points * np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])  # a direction's sign is arbitrary
    group_of = groups_by_label(split)
    groups = [group_of[split.label(name)] for name in known]
    return Projection(points[:len(known)], known, groups, points[len(known):], labels_R,
                      float((strengths[:2] ** 2).sum() / (strengths**2).sum()), nearest, str(run.regions))


def _regions(store: RegionStore, truth: GroundTruth, split: Split,
             known: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of unit length ``[R, D]`` of annotated regions, and the class of each ``[R]``."""
    label_of = {int(category): known.index(split.classes[label]) for label, category in enumerate(truth.category_ids)
                if split.classes[label] in known}
    objects: dict[int, list[tuple[list[float], int]]] = {}
    for record in truth.coco.anns.values():
        if record["category_id"] in label_of and not record.get("iscrowd") and record["image_id"] in store:
            x, y, width, height = record["bbox"]
            objects.setdefault(record["image_id"], []).append(([x, y, x + width, y + height],
                                                               label_of[record["category_id"]]))
    counts = np.zeros(len(known), np.int64)
    embeddings, labels = [], []
    order = sorted(objects)
    stride = next((step for step in (7, 11, 13, 17, 1) if len(order) % step), 1)  # spread over the images
    for position in range(len(order)):
        image_id = order[position * stride % len(order)]
        regions = store.view(image_id)
        if not len(regions.boxes):
            continue
        iou_GN = pairwise_iou(np.array([box for box, _ in objects[image_id]]), regions.boxes)
        for row, (_, label) in zip(iou_GN, objects[image_id]):
            best = int(row.argmax())
            if row[best] >= SAME_OBJECT and counts[label] < PER_CLASS:
                counts[label] += 1
                embeddings.append(np.asarray(regions.embeddings[best], np.float32))
                labels.append(label)
        if len(labels) >= MOST_REGIONS:
            break
    return _unit(np.array(embeddings, np.float32).reshape(len(labels), store.dim)), np.array(labels, np.int64)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)
