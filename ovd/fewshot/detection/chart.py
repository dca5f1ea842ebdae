"""The chart of a few-shot evaluation: novel AP50 against the number of shots, a line a method."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart, darkest first
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a6d3b")
MARKS = "osD^vP*X"


def draw_chart(found: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """A png: means with their deviations over seeds; what needs no shots is a dashed line across.

    Args:
        found: Rows as :func:`ovd.fewshot.detection.results.rows` makes them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(9.5, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(row["method"] for row in found))
    counts = sorted({row["shots"] for row in found if row["shots"]})
    for number, name in enumerate(names):
        style = {"color": COLOURS[number % len(COLOURS)], "label": name,
                 "linestyle": "-" if number < len(COLOURS) else ":"}
        mine = sorted((row for row in found if row["method"] == name and row["novel_ap50"] is not None),
                      key=lambda row: row["shots"])
        if [row["shots"] for row in mine] == [0]:
            axes.axhline(mine[0]["novel_ap50"], **{**style, "linestyle": "--"}, linewidth=1.5)
        elif mine:
            shift = 1 + 0.012 * (number - len(names) / 2)  # so that deviations do not hide each other
            axes.errorbar([row["shots"] * shift for row in mine], [row["novel_ap50"] for row in mine],
                          [row["novel_std"] for row in mine], marker=MARKS[number % len(MARKS)], markersize=5,
                          linewidth=1.6, elinewidth=1, capsize=2, **style)
    if counts:
        axes.set_xscale("log")
        axes.set_xticks(counts)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
    axes.set_xlabel("shots of each novel class")
    axes.set_ylabel("box AP50 of novel classes, per cent")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
