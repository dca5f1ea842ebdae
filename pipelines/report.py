"""Write the report of runs, finished or not, as one html page: figures, losses, errors, classes, pictures, settings.

    ovd report work_dirs/vild                            one run: work_dirs/vild/report.html
    ovd report work_dirs/vild_text work_dirs/vild        side by side: comparison.html in the folder above both
    ovd report work_dirs/demo                            a recipe

A work directory is that of ovd train, ovd test, ovd fewshot-eval or ovd run; what it lacks is named on the page, with
the command that makes it. Figures of each class, errors and pictures need detections: ovd test --out
WORK_DIR/detections.json.

A recipe that says what its report shows also gets report.json and picture.png. It is the recipe's ``report``, a dict::

    title, introduction     text
    methods                 list of dict(name, title, metrics[, detections]): metrics.json of `ovd test`, and what its
                            --out wrote; the last method is the one of interest
    clip_zero_shot          json of `ovd zero-shot`
    annotations, images, split, proposals
                            ground truth, folder of its images, classes, store of proposals: for pictures, figures of
                            each class, recall
    scenes                  how many images to show (6)

All but the methods may be left out.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ovd.errors import UserError
from ovd.evaluation.report import FIGURES, Page, Timeline, group_title, number, stage_timelines, text_table
from ovd.stores.atomic import atomic_write, write_bytes
from ovd.stores.manifest import Manifest
from pipelines.running.console import duration
from pipelines.running.journal import Journal
from pipelines.running.result_file import read_result

if TYPE_CHECKING:
    import numpy as np

    from ovd.evaluation.runs import Run

PICTURED = 2  # images in picture.png


class Method(msgspec.Struct, forbid_unknown_fields=True):
    """A method of the comparison, and the files with its results."""

    name: str
    title: str
    metrics: str
    detections: str = ""


class Plan(msgspec.Struct, forbid_unknown_fields=True):
    """What to show; see the module's docstring."""

    methods: list[Method]
    title: str = ""
    introduction: str = ""
    clip_zero_shot: str = ""
    annotations: str = ""
    images: str = ""
    split: str = ""
    proposals: str = ""
    scenes: int = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/report.py``."""
    parser.add_argument("work_dir", type=Path, nargs="+",
                        help="the work directory of a run or of a recipe; several runs are compared with the first")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page, an .html (default: report.html in the work "
                        "directory; comparison.html in the folder that several have in common)")
    parser.add_argument("--pictures", type=int, default=4, metavar="N",
                        help="pictures of each kind, such as the N worst images (default 4; 0 for none)")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/report.py`` and ``ovd report``."""
    if args.out is not None and args.out.suffix not in (".html", ".htm"):
        raise UserError(f"--out {args.out}: the report is a page: name an .html file")
    if args.pictures < 0:
        raise UserError(f"--pictures {args.pictures}: needs 0 or a positive number")
    if len(args.work_dir) > 1 or not _planned(args.work_dir[0]):
        write_runs(args.work_dir, args.out, args.pictures)
        return
    work_dir = args.work_dir[0]
    page = write_report(work_dir, args.out, args.pictures)
    print(f"\n{text_table(page)}\n")
    if page.warning:
        print(f"warning: {page.warning}")
    if page.ceiling:
        shown = ", ".join(f"{group_title(group)} {number(value)} %" for group, value in page.ceiling.items())
        print(f"zero-shot accuracy of CLIP on ground-truth crops: {shown}")
    print(f"{duration(page.total_seconds)} in total\nreport: {args.out or work_dir / 'report.html'}")


def _planned(work_dir: Path) -> bool:
    """Whether it is the folder of a recipe that says what its report shows."""
    from ovd.evaluation.runs import read_run

    recipe = read_run(work_dir).recipe
    return recipe is not None and bool(recipe.report)


def write_runs(work_dirs: Sequence[Path], out: Path | None = None, pictures: int = 4) -> Path:
    """Write the report of runs, or of a recipe that does not say what its report shows; returns the page's path.

    Args:
        work_dirs: the runs; the first is what the others are compared with.
        out: the page.
        pictures: of each kind.

    Raises:
        UserError: a folder in which there is no run.
    """
    from ovd.evaluation.run_page import render_runs
    from ovd.evaluation.run_report import gather

    start = time.perf_counter()
    report = gather(work_dirs, pictures)
    if out is None:
        shared = Path(os.path.commonpath([folder.resolve() for folder in work_dirs]))
        out = work_dirs[0] / "report.html" if len(work_dirs) == 1 else shared / "comparison.html"
    write_bytes(out, render_runs(report).encode())
    for exhibit in report.exhibits:
        figures = exhibit.run.metrics or {}
        shown = [f"{group_title(group)} AP50 {number(figures[f'{group}/ap50'])}" for group in ("base", "novel", "all")
                 if figures.get(f"{group}/ap50") is not None]
        print(f"{exhibit.title}: {exhibit.run.status}{': ' if shown else ''}{', '.join(shown)}")
        for problem in exhibit.problems:
            print(f"warning: {problem}")
        if report.recipe is None:
            _print_missing(exhibit.run)
    if report.recipe is not None:
        _print_missing(report.recipe)
    print(f"{time.perf_counter() - start:.0f} s, {out.stat().st_size / 1e6:.1f} MB\nreport: {_shown(out)}")
    return out


def _print_missing(run: "Run") -> None:
    for missing in run.missing():
        print(f"  not there: {missing.what}" + (f"\n    {missing.command}" if missing.command else ""))


def _shown(path: Path) -> Path:
    """A path as short as it is from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


def write_report(work_dir: Path, out: Path | None = None, pictures: int = 4) -> Page:
    """Gather the results of the recipe's run in ``work_dir`` and write its report there.

    Args:
        work_dir: the recipe's folder.
        out: the page, which then is all that is written; by default report.html in the folder.
        pictures: of each kind (worst, best, ...), besides the recipe's scenes.

    Raises: UserError when there is no run, its recipe says nothing of a report or something wrong, a file is missing.
    """
    journal = Journal.read(work_dir)
    plan = read_plan(journal.report, work_dir)
    exhibits = None
    if plan.annotations:
        from ovd.evaluation.exhibits import Exhibits
        from ovd.vocabulary.splits import get_split

        exhibits = Exhibits(plan.annotations, plan.images, get_split(plan.split),
                            {method.title: method.detections for method in plan.methods if method.detections})
    scenes, panels, classes, recall = [], [], [], {}
    if exhibits is not None:
        if exhibits.detections and plan.images:
            scenes, panels = exhibits.scenes(plan.scenes)
        if len(exhibits.detections) == len(plan.methods):
            classes = exhibits.class_rows()
        if plan.proposals:
            recall = exhibits.recall(plan.proposals)
    metrics = {method.name: read_result(method.metrics) for method in plan.methods}
    untrained = [method.title for method in plan.methods if metrics[method.name].get("untrained")]
    page = Page(
        title=plan.title or f"Recipe {journal.recipe}", introduction=plan.introduction,
        methods={method.name: method.title for method in plan.methods},
        metrics={method.name: by_group(metrics[method.name], method.metrics) for method in plan.methods},
        ceiling=read_result(plan.clip_zero_shot) if plan.clip_zero_shot else {}, recall=recall,
        timelines=timelines(journal), total_seconds=journal.total_seconds, scenes=scenes, classes=classes,
        settings=_settings(journal), artefacts=_artefacts(journal),
        commands=[(name, "ovd " + " ".join(record.command)) for name, record in journal.stages.items()],
        warning=f"{' and '.join(untrained)} learned from random weights, not from a trained CLIP: the figures for "
                "novel classes mean nothing." if untrained else "")
    from ovd.evaluation.report_page import render_page

    if out is None:
        write_bytes(work_dir / "report.json", (json.dumps(as_json(page, journal), indent=1) + "\n").encode())
        if panels:
            _write_picture(work_dir / "picture.png", panels[:PICTURED])
    write_bytes(out or work_dir / "report.html", render_page(page, _analysis(plan, pictures)).encode())
    return page


def _analysis(plan: Plan, pictures: int) -> list[tuple[str, str]]:
    """What the runs of the methods say besides their figures, as sections of the page; none where they left nothing."""
    from ovd.evaluation.run_page import analysis
    from ovd.evaluation.run_report import gather
    from ovd.evaluation.runs import read_run

    folders = {Path(method.metrics).parent: method.title for method in plan.methods}
    folders = {folder: title for folder, title in folders.items() if read_run(folder).config is not None}
    if not folders:
        return []
    shown = ("Training", "Precision and recall", "Errors", "Classes", "Pictures", "Classes and regions on a plane")
    sections = analysis(gather(list(folders), pictures, list(folders.values())))
    return [(name, content) for name, content in sections if name in shown]


def read_plan(value: dict[str, Any], work_dir: Path) -> Plan:
    """A recipe's ``report``, checked."""
    if not value:
        raise UserError(f"{work_dir}: the recipe of this run has no report; add one to it (see ovd report --help)")
    try:
        plan = msgspec.convert(value, Plan)
    except msgspec.ValidationError as error:
        raise UserError(f"{work_dir}: the recipe's report: {error}") from error
    names = [method.name for method in plan.methods]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{work_dir}: the recipe's report: methods must have at least one entry and different names")
    if plan.annotations and not plan.split:
        raise UserError(f"{work_dir}: the recipe's report: annotations need a split, which says what is novel")
    return plan


def by_group(metrics: dict[str, float | None], path: str) -> dict[str, dict[str, float | None]]:
    """The figures of a metrics.json (``"novel/ap50": 31.4``) by group, as far as a report shows them."""
    groups: dict[str, dict[str, float | None]] = {}
    for key, value in metrics.items():
        group, _, figure = key.rpartition("/")
        if figure in FIGURES:
            groups.setdefault(group, {})[figure] = value
    if not groups:
        raise UserError(f"{path}: has no figures such as \"base/ap50\"; it must be the metrics.json of ovd test")
    return groups


def timelines(journal: Journal) -> list[Timeline]:
    """When each stage ran, on a clock that stands still while none does."""
    return stage_timelines(journal.stages)


def as_json(page: Page, journal: Journal) -> dict[str, Any]:
    """The figures of a run, for programs."""
    groups = page.groups()
    return {
        "recipe": journal.recipe, "seed": journal.seed, "code_version": journal.code_version,
        "machine": journal.machine,
        "stages": [{"name": name, "seconds": round(record.seconds, 2), "peak_memory_mb": record.peak_memory_mb,
                    "reused": record.reused} for name, record in journal.stages.items()],
        "total_seconds": round(page.total_seconds, 2),
        "peak_memory_mb": max((record.peak_memory_mb for record in journal.stages.values()), default=0.0),
        "metrics": {method: {group: {figure: page.value(method, group, figure) for figure in page.figures()}
                             for group in groups} for method in page.methods},
        "clip_zero_shot": dict(page.ceiling),
        "proposal_recall": {group: dict(row) for group, row in page.recall.items()},
    }


def _settings(journal: Journal) -> list[tuple[str, str]]:
    machine = dict(journal.machine)
    cores, memory = machine.pop("cores", None), machine.pop("memory_gb", None)
    processor = machine.pop("processor", "unknown")
    where = f"{processor}, {cores} core{'s' * (cores != 1)}" + (f", {memory} GB" if memory else "")
    return [("recipe", f"{journal.recipe}, seed {journal.seed}"), ("code", journal.code_version), ("machine", where),
            ("versions", ", ".join(f"{name} {version}" for name, version in machine.items()))]


def _artefacts(journal: Journal) -> list[tuple[str, str, str]]:
    rows = []
    for record in journal.stages.values():
        for path in record.outputs:
            try:
                manifest = Manifest.read(path)
            except UserError:
                continue  # an output without a manifest, such as metrics.json
            marks = "".join(f", {flag}" for flag, on in manifest.flags.items() if on)
            rows.append((path, f"{manifest.kind}{marks}", manifest.content[:19]))
    return rows


def _write_picture(path: Path, pictures: "list[dict[str, np.ndarray]]") -> None:
    from PIL import Image

    from ovd.evaluation.comparison import montage

    picture = Image.fromarray(montage(pictures)).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    with atomic_write(path) as temporary:
        picture.save(temporary, "png", optimize=True)
