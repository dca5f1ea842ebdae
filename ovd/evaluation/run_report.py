"""What the report of one or several runs shows, gathered from their work directories."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from tqdm import tqdm

from ovd.errors import UserError
from ovd.evaluation.average_precision import GroundTruth
from ovd.evaluation.exhibits import Exhibits
from ovd.evaluation.projection import Projection, project
from ovd.evaluation.report import Scene
from ovd.evaluation.run_results import ClassFigures, ImageScore, RunResults, pictures_of
from ovd.evaluation.runs import Run, read_run, read_runs_below, runs_below

MOST_STUDIED = 8  # runs whose detections are looked into
MOST_PANELS = 3  # runs that stand side by side in a picture
RECALL_IMAGES = 2000
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Exhibit:
    """A run and what its detections say.

    Attributes:
        run: the run.
        title: what it is called on the page.
        results: its detections with the truth; None where something is missing.
        classes: figures of each class, where there are results.
        costs: group -> AP50 and what each kind of error costs.
        recall: group -> name of a figure -> recall of its proposals, in per cent.
        problems: what could not be read, and why.
    """

    run: Run
    title: str
    results: RunResults | None = None
    classes: Sequence[ClassFigures] = ()
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    recall: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class RunReport:
    """What a page shows.

    Attributes:
        title: of the page.
        exhibits: the runs, in the order in which they were asked for; the first is what others are compared with.
        recipe: the recipe whose runs they are, where its folder was asked for.
        scenes: heading -> pictures.
        projection: classes and regions on a plane.
    """

    title: str
    exhibits: Sequence[Exhibit]
    recipe: Run | None = None
    scenes: Mapping[str, Sequence[Scene]] = field(default_factory=dict)
    projection: Projection | None = None

    @property
    def studied(self) -> list[Exhibit]:
        """The runs with results."""
        return [exhibit for exhibit in self.exhibits if exhibit.results is not None]


def gather(work_dirs: Sequence[str | os.PathLike], scenes: int = 4, titles: Sequence[str] | None = None) -> RunReport:
    """Everything that the page of these work directories shows.

    Args:
        work_dirs: of runs, finished or not; of a recipe, alone, whose runs are then shown side by side.
        scenes: pictures of each kind (worst, best, ...).
        titles: of the runs; by default the names of their folders.

    Raises:
        UserError: no such folder, one without a run, or the same one twice.
    """
    runs = [read_run(folder) for folder in work_dirs]
    if len({run.work_dir.resolve() for run in runs}) < len(runs):
        raise UserError(f"{', '.join(map(str, work_dirs))}: a work directory is named twice; name each once")
    recipe = runs[0] if runs[0].recipe is not None else None
    if recipe is not None:
        if len(runs) > 1:
            raise UserError(f"{recipe.work_dir}: the folder of a recipe, which has a report of its own; compare its "
                            f"runs instead: {', '.join(map(str, runs_below(recipe.work_dir)[:3]))}")
        runs = read_runs_below(recipe.work_dir)
    elif any(run.recipe for run in runs):
        wrong = next(run for run in runs if run.recipe)
        raise UserError(f"{wrong.work_dir}: the folder of a recipe; compare runs with runs, such as "
                        f"{', '.join(map(str, runs_below(wrong.work_dir)[:3]))}")
    titles = titles or _titles(runs, recipe)
    exhibits = _with_recall(_studied(runs, titles))
    problems: list[str] = []
    pictures: dict[str, list[Scene]] = {}
    projection = None
    try:
        pictures = _scenes([exhibit for exhibit in exhibits if exhibit.results], scenes)
    except UserError as error:
        problems.append(str(error))
    try:
        projection = next((found for run in runs[:MOST_STUDIED] if (found := project(run)) is not None), None)
    except UserError as error:
        problems.append(str(error))
    if problems and exhibits:
        exhibits[-1] = replace(exhibits[-1], problems=[*exhibits[-1].problems, *problems])
    title = recipe.name if recipe else " and ".join(titles) if len(titles) < 4 else f"{len(titles)} runs"
    return RunReport(title, exhibits, recipe, pictures, projection)


def _titles(runs: Sequence[Run], recipe: Run | None) -> list[str]:
    """The shortest ends of the folders' paths that tell the runs apart."""
    if recipe is not None:
        return [str(run.work_dir.relative_to(recipe.work_dir)) for run in runs]
    parts = [run.work_dir.resolve().parts for run in runs]
    for length in range(1, 8):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.work_dir) for run in runs]


def _studied(runs: Sequence[Run], titles: Sequence[str]) -> list[Exhibit]:
    """The runs with their results, of the first so many that have some; a ground truth is read once."""
    truths: dict[Path, GroundTruth] = {}
    exhibits: list[Exhibit] = []
    with tqdm(total=3 * len(runs), desc="report", unit="step", disable=None) as bar:
        for number, (run, title) in enumerate(zip(runs, titles)):
            may = sum(exhibit.results is not None for exhibit in exhibits) < MOST_STUDIED
            exhibits.append(_study(run, title, truths, bar) if may else Exhibit(run, title))
            bar.update(3 * (number + 1) - bar.n)
    return exhibits


def _study(run: Run, title: str, truths: dict[Path, GroundTruth], bar: tqdm) -> Exhibit:
    try:
        bar.set_postfix_str(f"{title}: detections")
        known = truths.get(run.annotations) if run.annotations else None
        results = RunResults.of(run, known if known is not None and _same_classes(known, run) else None)
        if results is None:
            return Exhibit(run, title)
        truths[run.annotations] = results.truth
        bar.update()
        bar.set_postfix_str(f"{title}: errors")
        costs = results.costs()
        bar.update()
        bar.set_postfix_str(f"{title}: classes")
        return Exhibit(run, title, results, results.class_rows(), costs)
    except UserError as error:
        return Exhibit(run, title, problems=[str(error)])


def _same_classes(truth: GroundTruth, run: Run) -> bool:
    from ovd.vocabulary.splits import get_split

    return truth.classes == get_split(run.split).classes


def _with_recall(exhibits: Sequence[Exhibit]) -> list[Exhibit]:
    """The runs with the recall of their proposals; each store is measured once."""
    from ovd.vocabulary.splits import get_split

    measured: dict[tuple, Mapping] = {}
    found = []
    for exhibit in exhibits:
        run = exhibit.run
        if run.proposals and run.annotations and run.split:
            key = run.proposals, run.annotations, run.split
            try:
                if key not in measured:
                    truth = Exhibits(run.annotations, run.images or "", get_split(run.split), {})
                    measured[key] = truth.recall(run.proposals, most_images=RECALL_IMAGES)
                exhibit = replace(exhibit, recall=measured[key])
            except UserError as error:
                measured[key] = {}
                exhibit = replace(exhibit, problems=[*exhibit.problems, str(error)])
        found.append(exhibit)
    return found


def _scenes(exhibits: Sequence[Exhibit], count: int) -> dict[str, list[Scene]]:
    """Pictures by heading: the last run's worst and best images, and where it differs most from the first run."""
    if not exhibits or not exhibits[-1].run.images or not count:
        return {}
    last = exhibits[-1]
    beside = [exhibit for exhibit in exhibits[:-1]
              if exhibit.results.truth.ann_file == last.results.truth.ann_file][:MOST_PANELS - 1]
    shown = [*beside, last]
    ranked = last.results.ranked_images()
    chosen = {"The worst images": ranked[:count],
              "The best images": sorted(ranked[-count:], key=lambda row: (-row.score, -row.correct))}
    if beside:
        before = {row.image_id: row for row in beside[0].results.ranked_images()}
        gains = sorted((row for row in ranked if row.image_id in before),
                       key=lambda row: before[row.image_id].score - row.score)
        better = [row for row in gains[:count] if row.score > before[row.image_id].score]
        worse = [row for row in gains[::-1][:count] if row.score < before[row.image_id].score]
        chosen = {f"Where {last.title} is better than {beside[0].title}": better,
                  f"Where {last.title} is worse than {beside[0].title}": worse, **chosen}
    used: set[int] = set()
    scenes = {}
    for heading, rows in chosen.items():
        rows = [row for row in rows if row.image_id not in used]
        used |= {row.image_id for row in rows}
        if rows:
            scenes[heading] = [_scene(shown, row) for row in rows]
    return scenes


def _scene(shown: Sequence[Exhibit], row: ImageScore) -> Scene:
    pictures = pictures_of([exhibit.results for exhibit in shown], _panel_titles(shown), row.image_id)
    caption = (f"{shown[-1].results.file_name(row.image_id)}: {row.correct} right, {row.missed} not found or misnamed, "
               f"{row.wrong} wrong")
    return Scene(caption, {title: _jpeg(picture) for title, picture in pictures.items()})


def _panel_titles(shown: Sequence[Exhibit]) -> list[str]:
    return [exhibit.title for exhibit in shown] if len(shown) > 1 else ["detections"]


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    PilImage.fromarray(picture).save(file, "jpeg", quality=JPEG_QUALITY)
    return file.getvalue()


def differing(values: Iterable[object]) -> bool:
    """Whether not all of them are the same."""
    return len({str(value) for value in values}) > 1
