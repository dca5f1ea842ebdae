"""``ovd classes plot``: the classes' vectors in a plane, to see which are near each other.

Shapes: C classes, D embedding width.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovd.errors import UserError
from ovd.stores.atomic import atomic_write
from ovd.stores.class_registry import ClassRegistry
from pipelines.classes.origins import Origin
from pipelines.classes.showing import directions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_MARKS = {("text",): ("o", "#3d5a80", "text"), ("boxes",): ("s", "#ee6c4d", "boxes"),
          ("text", "boxes"): ("D", "#6a994e", "text + boxes"), ("boxes", "codes"): ("P", "#8e6c8a", "codes of boxes"),
          ("checkpoint",): ("v", "#2a9d8f", "checkpoint")}
_OTHER = ("^", "#7d7d7d", "other")
# where a label may be: points beside its own point, lines above it
_PLACES = [(side, lines) for reach in (5, 25, 60) for lines in (0, 1, -1, 2, -2, 3, -3) for side in (reach, -reach)]


def plot_classes(out: str | Path, registry: str | Path = "data/classes") -> Path:
    """Write a picture of all classes: the first two principal components of their directions, labelled.

    Raises:
        UserError: A registry with fewer than three classes, another kind of file.
    """
    out, there = Path(out), ClassRegistry(registry)
    if out.suffix != ".png":
        raise UserError(f"{out}: write a .png file")
    head = there.head()
    if len(head) < 3:
        raise UserError(f"{there.path}: {len(head)} class{'es' if len(head) > 1 else ''}, a plane needs three or more; "
                        "see ovd classes show for cosines")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points_C2, shares = plane(directions(head).numpy().astype(np.float64))
    side = float(np.clip(4 + 0.9 * np.sqrt(len(head)), 7, 18))
    figure = Figure(figsize=(side * 1.25, side), layout="constrained", dpi=110)
    axis = figure.add_subplot()
    marks = [_MARKS.get(Origin.of(origin).sources, _OTHER) for origin in head.provenance]
    for mark in dict.fromkeys(marks):
        rows = [row for row, other in enumerate(marks) if other == mark]
        axis.scatter(*points_C2[rows].T, marker=mark[0], color=mark[1], label=mark[2], s=30, zorder=2)
    labels = [axis.annotate(name, point, parse_math=False, fontsize=8 if len(head) <= 150 else 5, color="#333333",
                            textcoords="offset points", xytext=(5, 3), zorder=3)
              for name, point in zip(head.names, points_C2)]
    axis.margins(0.12)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    spread(labels, figure)
    axis.set_title(f"{len(head)} classes: first two principal components of their unit vectors "
                   f"({100 * shares[:2].sum():.0f} % of the variance)", fontsize=10)
    axis.set_xlabel(f"component 1 ({100 * shares[0]:.0f} %)")
    axis.set_ylabel(f"component 2 ({100 * shares[1]:.0f} %)")
    axis.legend(loc="best", fontsize=8)
    axis.grid(alpha=0.25)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    print(f"{out}: {len(head):,} classes")
    return out


def plane(rows_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows on their first two principal components, ``[C, 2]``, and each component's share of the variance.

    A component points to where its largest value is positive, so that the same rows give the same picture.
    """
    centred_CD = rows_CD - rows_CD.mean(0)
    left, values, _ = np.linalg.svd(centred_CD, full_matrices=False)
    points_C2 = left[:, :2] * values[:2]
    points_C2 *= np.where(points_C2[np.abs(points_C2).argmax(0), (0, 1)] < 0, -1.0, 1.0)
    total = (values**2).sum()
    return points_C2, values**2 / total if total else np.zeros_like(values)


def spread(labels: "list[Annotation]", figure: "Figure") -> None:
    """Move each label to where it covers no point and no label before it, or as little of them as can be.

    Beside its point, then some lines up or down; from two lines on, and where it is further away, a thin line leads to
    its point.
    """
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    centres = [label.axes.transData.transform(label.xy) for label in labels]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    for label in labels:
        best = None
        for side, lines in _PLACES:
            _place(label, side, lines)
            box = label.get_window_extent(renderer)
            covered = sum(_common_area(box, other) for other in taken)
            if best is None or covered < best[0]:
                best = covered, side, lines, box
            if not covered:
                break
        _, side, lines, box = best
        _place(label, side, lines)
        if abs(side) > 5 or abs(lines) > 1:
            label.axes.annotate("", label.xy, xytext=label.get_position(), textcoords="offset points", zorder=1,
                                arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.5})
        taken.append(box)


def _place(label: "Annotation", side: int, lines: int) -> None:
    label.set_position((side, 3 + lines * label.get_fontsize()))
    label.set_horizontalalignment("left" if side > 0 else "right")


def _common_area(one: "Bbox", other: "Bbox") -> float:
    """Square pixels that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
