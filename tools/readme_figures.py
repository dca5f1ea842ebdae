"""Put measured figures into README.md: the tables between its marks are written anew from report.json files.

    tools/readme_figures.py work_dirs/demo/report.json
    tools/readme_figures.py work_dirs/demo/report.json work_dirs/demo-seed1/report.json work_dirs/demo-seed2/report.json

From several runs (other seeds), figures are means, with the lowest and the highest below; times are those of the first.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ovd.errors import UserError
from ovd.evaluation.report import FIGURES, group_title
from pipelines.running.console import duration

METHODS = {"vild_text": "ViLD-text", "vild": "ViLD"}


def figures_table(reports: Sequence[dict[str, Any]]) -> str:
    """A row per group of classes, a column per figure; in a cell, one method after the other."""
    metrics = [report["metrics"] for report in reports]
    methods = list(metrics[0])
    groups = list(metrics[0][methods[0]])
    figures = [name for name in FIGURES if name in metrics[0][methods[0]][groups[0]]]
    rows = [["classes", *(FIGURES[figure] for figure in figures)], ["---"] + ["---:"] * len(figures)]
    for group in groups:
        cells = []
        for figure in figures:
            values = [[run[method][group][figure] for run in metrics] for method in methods]
            cell = " → ".join(f"**{one_number(v)}**" if v is values[-1] else one_number(v) for v in values)
            if len(reports) > 1:
                cell += f"<br><sub>{' → '.join(map(spread, values))}</sub>"
            cells.append(cell)
        rows.append([group_title(group), *cells])
    first = reports[0]
    seeds = ", ".join(str(report["seed"]) for report in reports)
    names = " → ".join(METHODS.get(method, method) for method in methods)
    notes = f"{names}, in per cent; seed{'s' * (len(reports) > 1)} {seeds}" + (
        ": the mean, and below it the lowest and the highest. " if len(reports) > 1 else ". ")
    if ceiling := first.get("clip_zero_shot"):
        shown = ", ".join(f"{group_title(group)} {value:.1f} %" for group, value in ceiling.items() if group != "all")
        notes += f"CLIP's own accuracy on ground-truth crops: {shown}."
    return markdown(rows) + "\n\n" + notes


def stages_table(report: dict[str, Any]) -> str:
    """A row per stage, and the total."""
    rows = [["stage", "time", "memory"], ["---", "---:", "---:"]]
    rows += [[stage["name"], duration(stage["seconds"]), f"{stage['peak_memory_mb']:,.0f} MB"]
             for stage in report["stages"]]
    rows.append(["**all**", f"**{duration(report['total_seconds'])}**", f"**{report['peak_memory_mb']:,.0f} MB**"])
    machine = report["machine"]
    return (markdown(rows) + f"\n\nMeasured on {machine['cores']} cores ({machine['processor']}) with PyTorch "
            f"{machine['torch']}. Some stages run side by side. Memory is the largest resident size of one process.")


def one_number(values: Sequence[float | None]) -> str:
    """The mean, ``63.1``; ``-`` where there is none."""
    known = [value for value in values if value is not None]
    return f"{mean(known):.1f}" if known else "-"


def spread(values: Sequence[float | None]) -> str:
    """The lowest and the highest, ``61.9 to 63.5``."""
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} to {max(known):.1f}" if known else "-"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table; the second row is the alignment."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def fill(text: str, mark: str, content: str) -> str:
    """``text`` with what is between ``<!-- mark -->`` and ``<!-- /mark -->`` replaced."""
    pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
    filled, count = re.subn(pattern, lambda match: match[1] + content + match[2], text, flags=re.DOTALL)
    if count != 1:
        raise UserError(f"the text has {count} places between <!-- {mark} --> and <!-- /{mark} -->, instead of one")
    return filled


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="report.json of one run or of several seeds")
    parser.add_argument("--readme", type=Path, default=Path(__file__).parents[1] / "README.md", help="file to change")
    args = parser.parse_args(argv)
    try:
        reports = [json.loads(path.read_text()) for path in args.reports]
        text = args.readme.read_text()
        text = fill(text, "demo-table", figures_table(reports))
        text = fill(text, "demo-stages", stages_table(reports[0]))
    except (OSError, json.JSONDecodeError, KeyError, UserError) as error:
        print(f"error: {error if not isinstance(error, KeyError) else f'no {error} in a report'}", file=sys.stderr)
        return 2
    args.readme.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
