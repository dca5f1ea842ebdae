"""The detections of several methods on the same image: which objects did each find, and did it name them right?

For pictures, not for figures: an image is shown with the best detections only, one at a place.

Shapes: N detections, G ground-truth objects; boxes are x1, y1, x2, y2 in pixels of the image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovd.evaluation.pictures import draw_instances, readable_scale
from ovd.evaluation.recall import pairwise_iou

SAME_PLACE = 0.5  # IoU from which two boxes are taken to mean the same object
RIGHT, WRONG, PLAIN = (20, 130, 230), (240, 110, 0), (165, 165, 165)  # blue and orange: told apart by everybody


@dataclass(frozen=True)
class Instances:
    """Objects in an image.

    Attributes:
        boxes: ``[N, 4]`` float.
        labels: ``[N]`` int.
        scores: ``[N]`` float, or None for ground truth.
        masks: ``[N, H, W]`` bool, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: np.ndarray) -> "Instances":
        return replace(self, **{name: None if value is None else value[chosen] for name, value in vars(self).items()})


def clearest(found: Instances, min_score: float, limit: int = 30) -> np.ndarray:
    """Indices of the best detections, best first: one at a place, whatever their classes, from ``min_score`` on."""
    kept: list[int] = []
    for index in np.argsort(-found.scores, kind="stable"):
        if found.scores[index] < min_score or len(kept) == limit:
            break
        if not kept or pairwise_iou(found.boxes[kept], found.boxes[[index]]).max() < SAME_PLACE:
            kept.append(int(index))
    return np.array(kept, np.int64)


def found_objects(found: Instances, truth: Instances) -> np.ndarray:
    """Per detection, best first, the object at its place, -1 for none: int ``[N]``. An object is taken once."""
    answer = np.full(len(found), -1)
    if len(truth) == 0:
        return answer
    iou_GN = pairwise_iou(truth.boxes, found.boxes)
    for index in range(len(found)):
        best = int(iou_GN[:, index].argmax())
        if iou_GN[best, index] >= SAME_PLACE:
            answer[index] = best
            iou_GN[best] = 0
    return answer


def draw_comparison(image: np.ndarray, truth: Instances, methods: Mapping[str, Instances], names: Sequence[str],
                    novel: set[int], min_score: float = 0.2) -> dict[str, np.ndarray]:
    """One picture for the ground truth and one for each method.

    What concerns novel classes has colour and a tag: in the ground truth the novel objects; in a method's picture the
    detections that are at a novel object, or that name a novel class: blue if the name is right, orange if it is wrong
    or nothing is there. Everything else has a thin grey box. Masks are outlines: a tint would change what a thing is.

    Args:
        image: HWC uint8 RGB.
        truth: the objects.
        methods: title -> detections.
        names: class name of each label.
        novel: labels of the novel classes.
        min_score: detections below it are not drawn.

    Returns:
        title -> picture, the ground truth first, all of one size, enlarged until tags are readable.
    """
    scale = readable_scale(image)
    is_novel = [label in novel for label in truth.labels.tolist()]
    pictures = {"ground truth": draw_instances(
        image, truth.boxes, [names[label] if new else "" for label, new in zip(truth.labels, is_novel)], truth.labels,
        _outlines(truth, is_novel), scale=scale, colours=[RIGHT if new else PLAIN for new in is_novel], opacity=1.0)}
    for title, found in methods.items():
        found = found[clearest(found, min_score)]
        at = found_objects(found, truth)
        tags, colours, shown = [], [], []
        for label, index in zip(found.labels.tolist(), at.tolist()):
            concerns = label in novel or (index >= 0 and is_novel[index])
            right = index >= 0 and label == truth.labels[index]
            shown.append(concerns)
            tags.append(names[label] if concerns else "")
            colours.append((RIGHT if right else WRONG) if concerns else PLAIN)
        pictures[title] = draw_instances(image, found.boxes, tags, found.labels, _outlines(found, shown),
                                         found.scores, scale, colours, opacity=1.0)
    return pictures


def draw_verdicts(image: np.ndarray, truth: Instances, methods: Mapping[str, tuple[Instances, float]],
                  names: Sequence[str]) -> dict[str, np.ndarray]:
    """One picture for the ground truth and one for each method, with a tag at every box.

    A detection is blue where it is at an object and names it right, orange where it is not; an object is orange where
    the last method did not find it or named it wrong.

    Args:
        image: HWC uint8 RGB.
        truth: the objects.
        methods: title -> detections, and the lowest score that is drawn.
        names: class name of each label.

    Returns:
        title -> picture, the ground truth first, all of one size.
    """
    scale = readable_scale(image)
    pictures = {}
    found_right = np.zeros(len(truth), bool)
    for title, (found, min_score) in methods.items():
        found = found[clearest(found, min_score)]
        at = found_objects(found, truth)
        right = (at >= 0) & (truth.labels[at] == found.labels) if len(truth) else np.zeros(len(found), bool)
        found_right = np.isin(np.arange(len(truth)), at[right])
        pictures[title] = draw_instances(image, found.boxes, [names[label] for label in found.labels], found.labels,
                                         _outlines(found, [True] * len(found)), found.scores, scale,
                                         [RIGHT if fits else WRONG for fits in right], opacity=1.0)
    return {"ground truth": draw_instances(
        image, truth.boxes, [names[label] for label in truth.labels], truth.labels,
        _outlines(truth, [True] * len(truth)), scale=scale, colours=[RIGHT if fits else WRONG for fits in found_right],
        opacity=1.0), **pictures}


def montage(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one size in a grid: a row per image, a titled column per key."""
    titles = list(rows[0])
    height, width = rows[0][titles[0]].shape[:2]
    gap, bar = 8, max(24, height // 14)
    page = Image.new("RGB", (len(titles) * (width + gap) - gap, bar + len(rows) * (height + gap) - gap), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(round(bar * 0.62))
    for column, title in enumerate(titles):
        draw.text((column * (width + gap) + 2, bar / 2), title, fill=(40, 40, 40), font=font, anchor="lm")
        for row, pictures in enumerate(rows):
            page.paste(Image.fromarray(pictures[title]), (column * (width + gap), bar + row * (height + gap)))
    return np.asarray(page)


def _outlines(instances: Instances, shown: Sequence[bool]) -> np.ndarray | None:
    """The pixels of each mask that touch its outside; none for an instance that is not to be shown."""
    if instances.masks is None:
        return None
    padded = np.pad(instances.masks, ((0, 0), (1, 1), (1, 1)))
    inside = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return instances.masks & ~inside & np.asarray(shown, bool).reshape(-1, 1, 1)
