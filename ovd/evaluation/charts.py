"""Line charts and scatter plots as SVG inside a page: colours come from the page's style, so they follow dark mode.

Colours are numbers: the style's ``.c0`` to ``.c7`` (Okabe and Ito's palette). Legends are HTML, which wraps on a phone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLOURS = 8
_MOST_POINTS = 300  # of a line: more than a chart has pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 24, 30


@dataclass(frozen=True)
class Line:
    """A line: ``xs`` and ``ys`` ``[N]``, N >= 1; what it says (``title``) when it is pointed at."""

    title: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Dots:
    """Points ``[N, 2]``, each with what it says when it is pointed at; ``radius`` in units of the chart."""

    points: np.ndarray
    titles: Sequence[str]
    colour: int = 0
    radius: float = 2.5
    hollow: bool = False


def line_chart(title: str, lines: Sequence[Line], x_title: str = "", limits: tuple[float, float] | None = None,
               logarithmic: bool = False, size: tuple[int, int] = (340, 210)) -> str:
    """Lines over one pair of axes.

    Args:
        limits: of the y axis; None for those of the values.
        logarithmic: y on a logarithmic scale, where all values are positive.
        size: width and height in units of the chart, which is scaled to its place on the page.
    """
    xs = np.concatenate([np.asarray(line.xs, float) for line in lines])
    ys = np.concatenate([np.asarray(line.ys, float) for line in lines])
    logarithmic = logarithmic and limits is None and bool((ys > 0).all()) and ys.max() > 3 * ys.min()
    low, high = limits or _room(float(ys.min()), float(ys.max()), logarithmic)
    x_axis = _Axis(float(xs.min()), float(xs.max()) if xs.max() > xs.min() else float(xs.min()) + 1, _LEFT,
                   size[0] - _RIGHT)
    y_axis = _Axis(low, high, size[1] - _BOTTOM, _TOP, logarithmic)
    parts = [f'<text class="name" x="{_LEFT}" y="14">{escape(title)}</text>', _grid(x_axis, y_axis, size)]
    if x_title:
        parts.append(f'<text x="{size[0] - _RIGHT}" y="{size[1] - 3}" text-anchor="end">{escape(x_title)}</text>')
    for line in lines:
        keep = np.unique(np.linspace(0, len(line.xs) - 1, min(len(line.xs), _MOST_POINTS)).round().astype(int))
        places = [(x_axis.place(float(line.xs[i])), y_axis.place(float(line.ys[i]))) for i in keep]
        classes = f"line c{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
        last = f"{line.title}: {line.ys[-1]:.3g} at {line.xs[-1]:g}"
        if len(places) == 1:
            parts.append(f'<circle class="dot c{line.colour % COLOURS}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}"'
                         f' r="3"><title>{escape(last)}</title></circle>')
            continue
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{classes}" points="{points}"><title>{escape(last)}</title></polyline>')
    return _svg(title, parts, size)


def scatter(title: str, layers: Iterable[Dots], labels: Sequence[tuple[float, float, str]] = (),
            size: tuple[int, int] = (680, 460)) -> str:
    """Points on a plane without axes; a label is written where no other label is.

    Args:
        labels: x, y and text, the most important first; those that would cover a ring are left out too.
    """
    layers = list(layers)
    everything = np.concatenate([layer.points for layer in layers])
    low, high = everything.min(axis=0), everything.max(axis=0)
    x_axis = _Axis(float(low[0]), float(high[0]) if high[0] > low[0] else float(low[0]) + 1, 16, size[0] - 16)
    y_axis = _Axis(float(low[1]), float(high[1]) if high[1] > low[1] else float(low[1]) + 1, size[1] - 16, 16)
    parts = []
    for layer in layers:
        kind = "ring" if layer.hollow else "dot"
        dots = "".join(f'<circle cx="{x_axis.place(x):.1f}" cy="{y_axis.place(y):.1f}" r="{layer.radius}">'
                       f"<title>{escape(text)}</title></circle>"
                       for (x, y), text in zip(layer.points.tolist(), layer.titles))
        parts.append(f'<g class="{kind} c{layer.colour % COLOURS}">{dots}</g>')
    rings = [(x_axis.place(x), y_axis.place(y)) for layer in layers if layer.hollow for x, y in layer.points.tolist()]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in rings]
    for x, y, text in labels:
        left, top, width = x_axis.place(x) + 8, y_axis.place(y) - 7, 6.2 * len(text)
        if left + width > size[0]:
            left -= width + 16
        box = left, top, left + width, top + 14
        if all(box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]
               for other in taken):
            taken.append(box)
            parts.append(f'<text class="label" x="{left:.1f}" y="{top + 11:.1f}">{escape(text)}</text>')
    return _svg(title, parts, size)


def legend(entries: Iterable[tuple[str, int, bool]]) -> str:
    """Names beside their colours; an entry is (name, colour, dashed)."""
    items = "".join(f'<span><i class="c{colour % COLOURS}{" dashed" if dashed else ""}"></i>{escape(name)}</span>'
                    for name, colour, dashed in entries)
    return f'<div class="legend">{items}</div>'


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return self.begin + (min(max(value, low), high) - low) / (high - low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            return ticks if len(ticks) <= 6 else [tick for tick in ticks if f"{tick:e}".startswith("1.")] or ticks[::2]
        from matplotlib.ticker import MaxNLocator

        ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(tick) for tick in ticks if self.low - 1e-9 <= tick <= self.high + 1e-9]


def _room(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """Limits with a little room around the values."""
    if logarithmic:
        return low / 1.1, high * 1.1
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - margin), high + margin


def _grid(x_axis: _Axis, y_axis: _Axis, size: tuple[int, int]) -> str:
    parts = []
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{size[0] - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_axis.ticks():
        parts.append(f'<text x="{x_axis.place(tick):.1f}" y="{size[1] - _BOTTOM + 14}" text-anchor="middle">'
                     f"{_short(tick)}</text>")
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{size[0] - _RIGHT}" y1="{size[1] - _BOTTOM}" '
                 f'y2="{size[1] - _BOTTOM}"/>')
    return "".join(parts)


def _short(value: float) -> str:
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _svg(title: str, parts: Sequence[str], size: tuple[int, int]) -> str:
    return (f'<svg class="plot" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}">'
            f"{''.join(parts)}</svg>")
