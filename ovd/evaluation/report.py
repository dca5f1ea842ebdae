"""What a report shows, and its figures as text: several methods side by side, a row per group of classes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

FIGURES = {"ap50": "AP50", "mask_ap50": "mask AP50", "top1_ap50": "AP50, one label a box", "accuracy": "accuracy"}
GROUPS = {"base": "base", "novel": "novel", "novel_combination": "new combinations", "novel_shape": "new shapes",
          "all": "all"}


@dataclass(frozen=True)
class Scene:
    """An image as every method sees it: title -> JPEG or PNG file contents, in the order in which they are shown."""

    caption: str
    panels: Mapping[str, bytes]


@dataclass(frozen=True)
class ClassRow:
    """A line of the table of classes; ``ap50`` is per method, NaN for classes without objects."""

    name: str
    group: str
    objects: int
    ap50: Sequence[float]


@dataclass(frozen=True)
class Timeline:
    """When a stage ran: begin and end of every time, in seconds of the run's own clock, and its peak memory in MB."""

    name: str
    spans: Sequence[tuple[float, float]]
    peak_memory_mb: float
    reused: bool = False

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return sum(end - begin for begin, end in self.spans)


class StageTime(Protocol):
    """What a journal says of a stage: begin and end of every time it ran, in seconds of the epoch, and its memory."""

    intervals: Sequence[tuple[float, float]]
    peak_memory_mb: float
    reused: bool


def stage_timelines(stages: Mapping[str, StageTime]) -> list[Timeline]:
    """When each stage ran, on a clock that stands still while none does."""
    moments = sorted((begin, end) for stage in stages.values() for begin, end in stage.intervals)
    idle: list[tuple[float, float]] = []  # (from this moment on, so much idle time has gone before)
    reached, skipped = (moments[0][0], moments[0][0]) if moments else (0.0, 0.0)
    idle.append((reached, skipped))
    for begin, end in moments:
        if begin > reached:
            skipped += begin - reached
            idle.append((begin, skipped))
        reached = max(reached, end)

    def clock(moment: float) -> float:
        return moment - next(gone for since, gone in reversed(idle) if since <= moment)

    return [Timeline(name, [(clock(begin), clock(end)) for begin, end in stage.intervals], stage.peak_memory_mb,
                     stage.reused) for name, stage in stages.items()]


@dataclass(frozen=True)
class Page:
    """Everything that a report shows.

    Attributes:
        title, introduction: what was run.
        methods: key -> title, in the order of the columns; the last is the one that is of interest.
        metrics: method -> group -> figure -> per cent (None where there is no ground truth).
        ceiling: group -> zero-shot accuracy of the CLIP that the methods learn from, in per cent.
        recall: group -> name of the figure -> per cent.
        timelines: the stages, in order.
        total_seconds: time in which any stage ran.
        scenes: pictures.
        classes: figures of every class.
        settings: (what, value) of the run.
        artefacts: (path, kind, fingerprint) of what the run made.
        commands: (stage, its command).
        warning: what a reader must know before the figures.
    """

    title: str
    introduction: str
    methods: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    ceiling: Mapping[str, float] = field(default_factory=dict)
    recall: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    timelines: Sequence[Timeline] = ()
    total_seconds: float = 0.0
    scenes: Sequence[Scene] = ()
    classes: Sequence[ClassRow] = ()
    settings: Sequence[tuple[str, str]] = ()
    artefacts: Sequence[tuple[str, str, str]] = ()
    commands: Sequence[tuple[str, str]] = ()
    warning: str = ""

    def groups(self) -> list[str]:
        """The groups of classes of any method, the known ones first."""
        found = {group: None for rows in self.metrics.values() for group in rows}
        return [group for group in GROUPS if group in found] + [group for group in found if group not in GROUPS]

    def figures(self) -> list[str]:
        """The figures that any method has."""
        return [name for name in FIGURES if any(name in row for rows in self.metrics.values() for row in rows.values())]

    def value(self, method: str, group: str, figure: str) -> float | None:
        """A figure, None where it does not exist."""
        value = self.metrics[method].get(group, {}).get(figure)
        return None if value is None or math.isnan(value) else value


def text_table(page: Page) -> str:
    """The figures as lines of text: a row per group, under each figure a column per method."""
    columns = [(figure, method) for figure in page.figures() for method in page.methods]
    titles = [page.methods[method] for _, method in columns]
    widths = [max(len(title), 6) for title in titles]
    per_figure = len(page.methods)
    blocks = []
    for index, figure in enumerate(page.figures()):
        mine = slice(index * per_figure, (index + 1) * per_figure)
        needed = len(FIGURES[figure]) - (sum(widths[mine]) + 2 * (per_figure - 1))
        widths[mine.start] += max(0, needed)
        blocks.append(FIGURES[figure].center(sum(widths[mine]) + 2 * (per_figure - 1)))
    left = max(len(group_title(group)) for group in [*page.groups(), "classes"])

    def line(first: str, cells: Iterable[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(cells, widths)]
        parts = ["  ".join(cells[i:i + per_figure]) for i in range(0, len(cells), per_figure)]
        return "   ".join([first.ljust(left), *parts]).rstrip()

    rows = ["   ".join([" " * left, *blocks]).rstrip(), line("classes", titles)]
    rows += [line(group_title(group), [number(page.value(method, group, figure)) for figure, method in columns])
             for group in page.groups()]
    return "\n".join(rows)


def group_title(group: str) -> str:
    """What a group of classes is called."""
    return GROUPS.get(group, group.replace("_", " "))


def number(value: float | None) -> str:
    """A figure as text with one decimal, "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
