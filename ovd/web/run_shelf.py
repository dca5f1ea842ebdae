"""The runs that the page shows: read when they are asked for, and kept until their files change."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ovd.errors import UserError
from ovd.evaluation.run_page import analysis
from ovd.evaluation.run_report import Exhibit, RunReport
from ovd.evaluation.run_results import ImageScore, RunResults
from ovd.evaluation.runs import JOURNAL, Run, read_run, read_runs_below

MOST_KEPT = 4  # runs whose detections stay in memory
_WATCHED = (JOURNAL, "metrics.json", "detections.json", "detections.pkl", "results.jsonl", "fewshot.json")


@dataclass(frozen=True, eq=False)
class ShownRun:
    """A run as the page shows it.

    Attributes:
        run: The run.
        sections: (heading, html) of the report.
        results: Its detections with the truth; None without them.
        ranked: Its images, from the worst to the best.
        problem: Why there are no results; "" where that is plain.
    """

    run: Run
    sections: list[tuple[str, str]]
    results: RunResults | None = None
    ranked: Sequence[ImageScore] = ()
    problem: str = ""
    stamp: tuple = field(default=(), repr=False)

    def pictures(self, image_id: int) -> dict[str, np.ndarray]:
        """``ground truth`` and ``detections`` of an image."""
        return self.results.picture(image_id)


class RunShelf:
    """Runs by the names that the page shows.

    Args:
        folders: Of runs; of recipes or anything with runs below it, which stand for those.

    Raises:
        UserError: A folder that is not there, or in which there is no run.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self._folders: dict[str, Path] = {}
        for folder in map(Path, folders):
            runs = _runs_in(folder)
            for path in runs:
                name = str(path) if len(runs) == 1 else f"{folder.name}/{path.relative_to(folder).as_posix()}"
                if self._folders.setdefault(name, path) != path:  # seed0/vild of another study
                    self._folders.setdefault(str(path), path)
        self._kept: OrderedDict[str, ShownRun] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What the runs are called."""
        return list(self._folders)

    def get(self, name: str) -> ShownRun:
        """A run, read anew where its files have changed.

        Raises:
            UserError: No run of this name; its files are damaged.
        """
        if name not in self._folders:
            raise UserError("There is no such run on this page.")
        folder = self._folders[name]
        stamp = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in map(folder.joinpath, _WATCHED)
                      if path.is_file())
        with self._lock:
            kept = self._kept.pop(name, None)
            if kept is None or kept.stamp != stamp:
                kept = _shown(read_run(folder), name, stamp)
            self._kept[name] = kept
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return kept


def _runs_in(folder: Path) -> list[Path]:
    try:
        run = read_run(folder)
    except UserError:
        if not folder.is_dir():
            raise
        run = None
    if run is not None and run.recipe is None:
        return [folder]
    found = [below.work_dir for below in read_runs_below(folder)]
    if not found:
        raise UserError(f"--runs {folder}: there is no run in it; give the --work-dir of ovd train, ovd test or ovd "
                        "run")
    return found


def _shown(run: Run, name: str, stamp: tuple) -> ShownRun:
    try:
        results = RunResults.of(run)
        exhibit = Exhibit(run, name) if results is None else \
            Exhibit(run, name, results, results.class_rows(), results.costs())
        ranked = [] if results is None or run.images is None else results.ranked_images()
    except UserError as error:
        report = RunReport(name, [Exhibit(run, name)])
        return ShownRun(run, analysis(report), problem=str(error), stamp=stamp)
    return ShownRun(run, analysis(RunReport(name, [exhibit])), results, ranked, stamp=stamp)
