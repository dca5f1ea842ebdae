"""Figures of an evaluation as a table for people."""

import math
from collections.abc import Mapping

TITLES = {"ap": "box AP", "ap50": "box AP50", "mask_ap": "mask AP", "mask_ap50": "mask AP50",
          "top1_ap50": "1-label AP50", "accuracy": "accuracy", "voc07_ap50": "VOC2007 AP", "voc_ap50": "VOC2010 AP"}


def ap_table(metrics: Mapping[str, float]) -> str:
    """``{"base/ap50": 71.2, ...}`` as text, a row per group of classes; "-" where a group has no ground truth."""
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        group, _, name = key.rpartition("/")
        rows.setdefault(group, {})[name] = value
    names = [name for name in TITLES if any(name in row for row in rows.values())]
    left = max([len(group) for group in rows] + [len("classes")])
    widths = [max(len(TITLES[name]), 6) for name in names]
    lines = ["  ".join(["classes".ljust(left), *(TITLES[n].rjust(w) for n, w in zip(names, widths))])]
    lines.append("-" * len(lines[0]))
    for group, row in rows.items():
        cells = [_cell(row.get(name)).rjust(width) for name, width in zip(names, widths)]
        lines.append("  ".join([group.ljust(left), *cells]))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
