"""Results over shots and seeds: a row for each method and number of shots, with means and deviations."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

GROUPS = ("base", "novel", "all")


def rows(figures: Mapping[tuple[str, int, int], Mapping[str, float]],
         titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """The table for programs, in the order of the methods and by rising shots.

    Args:
        figures: (method, shots, seed of the shots) -> ``{"novel/ap50": per cent, ...}``; a method that needs no shots
            has 0 of them.
        titles: Of the methods.

    Returns:
        ``{"method", "name", "shots", "seeds", "base_ap50", "novel_ap50", "novel_std", ...}``: means over seeds and, for
        every group, the sample standard deviation (0 for one seed); ``figures`` has the values of all seeds.
    """
    found = []
    for name, title in titles.items():
        for shots in sorted({key[1] for key in figures if key[0] == name}):
            runs = {key[2]: figures[key] for key in figures if key[:2] == (name, shots)}
            found.append(row(title, name, shots, runs))
    return found


def row(title: str, name: str, shots: int, runs: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """One row, from the figures of each seed."""
    values = {key: [runs[seed][key] for seed in sorted(runs)] for key in next(iter(runs.values()))
              if all(_number(one.get(key)) for one in runs.values())}
    result = {"method": title, "name": name, "shots": shots, "seeds": sorted(runs)}
    for group in GROUPS:
        here = values.get(f"{group}/ap50")
        result[f"{group}_ap50"] = None if here is None else round(statistics.fmean(here), 2)
        result[f"{group}_std"] = None if here is None else round(deviation(here), 2)
    result["figures"] = {key: {"mean": round(statistics.fmean(here), 2), "std": round(deviation(here), 2),
                               "values": [round(value, 4) for value in here]} for key, here in values.items()}
    return result


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Novel AP50 by shots, mean and deviation, and base AP50, for people."""
    shots = sorted({entry["shots"] for entry in found if entry["shots"]})
    names = list(dict.fromkeys(entry["name"] for entry in found))
    width = max([len("novel AP50"), *(len(entry["method"]) for entry in found)])
    titles = [*(f"{k} shot{'s' * (k > 1)}" for k in shots), "base AP50"]
    lines = ["novel AP50".ljust(width) + "".join(f"{title:>14}" for title in titles)]
    lines.append("-" * len(lines[0]))
    for name in names:
        mine = {entry["shots"]: entry for entry in found if entry["name"] == name}
        cells = [cell(mine.get(k, mine.get(0)), "novel") for k in shots]
        base = {entry["base_ap50"] for entry in mine.values()}
        last = next(iter(mine.values()))
        lines.append(last["method"].ljust(width) + "".join(f"{text:>14}" for text in cells)
                     + f"{_range(base):>14}")
    return "\n".join(lines)


def cell(entry: Mapping[str, Any] | None, group: str) -> str:
    """``57.1 ± 0.8``; one number where there is one seed, a dash where there is none."""
    value = None if entry is None else entry[f"{group}_ap50"]
    if value is None:
        return "-"
    return f"{value:.1f}" if len(entry["seeds"]) < 2 else f"{value:.1f} ± {entry[f'{group}_std']:.1f}"


def _range(values: set[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    return f"{known[0]:.2f}" if len(known) == 1 else f"{known[0]:.1f} to {known[-1]:.1f}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not math.isnan(value)
