"""The chart of a few-shot evaluation: novel AP50 against the number of shots, a line a method."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind people tell apart, darkest first
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a6d3b")
MARKS = "osD^vP*X"


def draw_chart(found: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """A png: means with their deviations over seeds; what needs no shots is a dashed line across.

    Args:
        found: Rows as :func:`ovd.fewshot.detection.results.rows` makes them.
    """
    return draw_panels([(title, found)])


def draw_panels(panels: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> bytes:
    """Several such charts in one png: two a line, the first by itself where their number is odd.

    A method has one style in all of them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    alone = len(panels) % 2
    lines = [[0, 0]] * alone + [[i, i + 1] for i in range(alone, len(panels), 2)]
    figure = Figure(figsize=(12, 4.4 * len(lines)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplot_mosaic(lines)
    styles: dict[str, int] = {}
    for place, (title, rows) in enumerate(panels):
        _choose_styles(styles, [row["method"] for row in rows])
        _draw(places[place], title, rows, styles)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _choose_styles(styles: dict[str, int], methods: Sequence[str]) -> None:
    """Give each new method of a chart the first style that no other method of the chart has."""
    for name in dict.fromkeys(methods):
        if name not in styles:
            taken = {styles[other] for other in methods if other in styles}
            styles[name] = next(number for number in range(len(taken) + 1) if number not in taken)


def _draw(axes: "Axes", title: str, found: Sequence[Mapping[str, Any]], styles: Mapping[str, int]) -> None:
    from matplotlib.ticker import ScalarFormatter

    counts = sorted({row["shots"] for row in found if row["shots"]})
    here = list(dict.fromkeys(row["method"] for row in found))
    for place, name in enumerate(here):
        number = styles[name]
        style = {"color": COLOURS[number % len(COLOURS)], "label": name,
                 "linestyle": ("-", ":", "-.")[number // len(COLOURS) % 3]}
        mine = sorted((row for row in found if row["method"] == name and row["novel_ap50"] is not None),
                      key=lambda row: row["shots"])
        if [row["shots"] for row in mine] == [0]:
            axes.axhline(mine[0]["novel_ap50"], **{**style, "linestyle": "--"}, linewidth=1.5)
        elif mine:
            shift = 1 + 0.012 * (place - len(here) / 2)  # so that deviations do not hide each other
            axes.errorbar([row["shots"] * shift for row in mine], [row["novel_ap50"] for row in mine],
                          [row["novel_std"] for row in mine], marker=MARKS[number % len(MARKS)], markersize=5,
                          linewidth=1.6, elinewidth=1, capsize=2, **style)
    if counts:
        axes.set_xscale("log")
        axes.set_xticks(counts)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
    axes.set_xlabel("shots of each novel class (bars: standard deviation over sets)")
    axes.set_ylabel("novel box AP50, per cent")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.47, -0.14), ncols=2, frameon=False, fontsize=8,
                handlelength=1.6, handletextpad=0.5, columnspacing=1)
