"""``ovd show annotations``."""

from collections import Counter

import numpy as np

from ovd.data.annotations import Annotation
from ovd.data.boxes import corners
from ovd.evaluation.exhibits import decode_masks
from ovd.evaluation.picture_sheet import Panel
from ovd.evaluation.pictures import GREY, class_colour, draw_instances, fitted
from pipelines.show.findings import Findings, count
from pipelines.show.request import Dataset, Request
from pipelines.show.sheets import SIDE, panels_of, write_sheets

SMALL = 4  # pixels: a side below it is hardly an object
OVERHANG = 0.3  # share of boxes that reach over the border from which something is wrong


def show_annotations(request: Request) -> int:
    """Draw annotated images and say what is in the file; returns the exit status.

    Raises:
        UserError: Wrong or missing input.
    """
    data = request.dataset()
    chosen = request.choose(data)
    wanted = data.labels_of(request.classes)
    findings = check_annotations(data)
    order = {category_id: place for place, category_id in enumerate(sorted(data.names))}

    def draw(image_id: int) -> Panel:
        found = data.objects[image_id]
        image = np.asarray(data.pictures.image(image_id))
        faint = [bool(wanted) and a.category_id not in wanted for a in found]
        colours = [GREY if grey else class_colour(order[a.category_id]) for a, grey in zip(found, faint)]
        picture, boxes, masks = fitted(image, corners([a.bbox for a in found]), SIDE,
                                       masks_of(found, image.shape[:2]))
        if masks is not None:
            masks &= ~np.array(faint)[:, None, None]
        names = ["" if grey else data.names[a.category_id] + " (crowd)" * a.iscrowd for a, grey in zip(found, faint)]
        picture = draw_instances(picture, boxes, names, [0] * len(found), masks, colours=colours, opacity=0.25,
                                 line_width=2)
        most = Counter(data.names[a.category_id] for a in found).most_common(4)
        return Panel(picture, data.pictures.names[image_id],
                     (f"{count(len(found), 'object')}: " + ", ".join(f"{n} {name}" for name, n in most) if found else
                      "no objects", f"image {image_id}, {image.shape[1]} x {image.shape[0]}"))

    panels = panels_of(chosen, draw, findings)
    write_sheets(request.out, "annotations", f"Annotations of {data.path.name}", summary(data), panels,
                 warnings=findings.wrong)
    return findings.report("boxes that hug what they name, in each picture; masks that follow it; names that fit; "
                           "objects without a box")


def masks_of(found: list[Annotation], size: tuple[int, int]) -> np.ndarray | None:
    """Masks bool ``[N, height, width]``; None where any object has none."""
    masks = [a.mask() for a in found]
    return decode_masks(masks, size) if masks and all(masks) else None


def summary(data: Dataset) -> str:
    """``250 images, 1,532 objects of 102 classes``."""
    records = data.annotations
    return (f"{count(len(records.images), 'image')}, {count(len(records.annotations), 'object')} of "
            f"{count(len(records.categories), 'class', 'classes')}")


def check_annotations(data: Dataset) -> Findings:
    """Print what is in the file; returns what is odd about it."""
    findings = Findings()
    records = data.annotations
    print(f"{data.path}: {summary(data)}")
    if not records.annotations:
        findings.notes.append("there is no object in the file")
        return findings
    counts = Counter(a.category_id for a in records.annotations)
    empty = sum(not found for found in data.objects.values())
    most = ", ".join(f"{data.names[i]} ({n:,})" for i, n in counts.most_common(6))
    print(f"  most common: {most}; {count(empty, 'image')} without objects")
    if absent := [name for i, name in data.names.items() if i not in counts]:
        findings.notes.append(f"{count(len(absent), 'class has', 'classes have')} no object: {', '.join(absent[:6])}"
                              + ", ..." * (len(absent) > 6))
    sizes = {image.id: (image.width, image.height) for image in records.images}
    xywh_N4 = np.array([a.bbox for a in records.annotations], np.float64)
    sizes_N2 = np.array([sizes[a.image_id] for a in records.annotations], np.float64)
    crowds = sum(a.iscrowd for a in records.annotations)
    median = np.median(xywh_N4[:, 2:], axis=0)
    print(f"  boxes: {median[0]:.0f} x {median[1]:.0f} pixels in the median, {crowds:,} of crowds")
    if small := int((xywh_N4[:, 2:] < SMALL).any(axis=1).sum()):
        findings.notes.append(f"{count(small, 'box is', 'boxes are')} less than {SMALL} pixels wide or high")
    over = (xywh_N4[:, :2] + xywh_N4[:, 2:] > sizes_N2 + 2).any(axis=1)
    if xywh_N4.max() <= 1.5 and sizes_N2.min() > 8:
        findings.wrong.append("no coordinate is above 1: these are shares of the image; COCO's boxes are pixels")
    elif over.mean() > OVERHANG:
        corners_too = (xywh_N4[:, 2:] > xywh_N4[:, :2]).all()
        findings.wrong.append(f"{100 * over.mean():.0f} % of the boxes reach over the border of their image: "
                              + ("bbox looks like x1, y1, x2, y2; COCO's is x, y, width, height" if corners_too else
                                 "they belong to images of another size, or to other images"))
    elif over.any():
        findings.notes.append(f"{count(int(over.sum()), 'box reaches', 'boxes reach')} over the border of its image")
    return findings
