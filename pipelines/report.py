"""Write the report of a recipe's run: report.json, report.html and picture.png in its work directory.

What it shows is the recipe's ``report``, a dict::

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ovd.errors import UserError
from ovd.evaluation.report import FIGURES, Page, Timeline, group_title, number, text_table
from ovd.stores.atomic import atomic_write, write_bytes
from ovd.stores.manifest import Manifest
from pipelines.running.console import duration
from pipelines.running.journal import Journal

if TYPE_CHECKING:
    import numpy as np

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
    parser.add_argument("work_dir", type=Path, help="the work directory of a recipe, such as work_dirs/demo")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/report.py`` and ``ovd report``."""
    page = write_report(args.work_dir)
    print(f"\n{text_table(page)}\n")
    if page.warning:
        print(f"warning: {page.warning}")
    if page.ceiling:
        shown = ", ".join(f"{group_title(group)} {number(value)} %" for group, value in page.ceiling.items())
        print(f"zero-shot accuracy of CLIP on ground-truth crops: {shown}")
    print(f"{duration(page.total_seconds)} in total\nreport: {args.work_dir / 'report.html'}")


def write_report(work_dir: Path) -> Page:
    """Gather the results of the run in ``work_dir`` and write its report there.

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
    scenes, pictures, classes, recall = [], [], [], {}
    if exhibits is not None:
        if exhibits.detections and plan.images:
            scenes, pictures = exhibits.scenes(plan.scenes)
        if len(exhibits.detections) == len(plan.methods):
            classes = exhibits.class_rows()
        if plan.proposals:
            recall = exhibits.recall(plan.proposals)
    metrics = {method.name: _read_json(method.metrics) for method in plan.methods}
    untrained = [method.title for method in plan.methods if metrics[method.name].get("untrained")]
    page = Page(
        title=plan.title or f"Recipe {journal.recipe}", introduction=plan.introduction,
        methods={method.name: method.title for method in plan.methods},
        metrics={method.name: by_group(metrics[method.name], method.metrics) for method in plan.methods},
        ceiling=_read_json(plan.clip_zero_shot) if plan.clip_zero_shot else {}, recall=recall,
        timelines=timelines(journal), total_seconds=journal.total_seconds, scenes=scenes, classes=classes,
        settings=_settings(journal), artefacts=_artefacts(journal),
        commands=[(name, "ovd " + " ".join(record.command)) for name, record in journal.stages.items()],
        warning=f"{' and '.join(untrained)} learned from random weights, not from a trained CLIP: the figures for "
                "novel classes mean nothing." if untrained else "")
    from ovd.evaluation.report_page import render_page

    write_bytes(work_dir / "report.json", (json.dumps(as_json(page, journal), indent=1) + "\n").encode())
    if pictures:
        _write_picture(work_dir / "picture.png", pictures[:PICTURED])
    write_bytes(work_dir / "report.html", render_page(page).encode())
    return page


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
    moments = sorted(interval for record in journal.stages.values() for interval in record.intervals)
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

    return [Timeline(name, [(clock(begin), clock(end)) for begin, end in record.intervals], record.peak_memory_mb,
                     record.reused) for name, record in journal.stages.items()]


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


def _read_json(path: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the recipe to its end first") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not a json file ({error}); run the stage that writes it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a json object; run the stage that writes it again")
    return value


def _write_picture(path: Path, pictures: "list[dict[str, np.ndarray]]") -> None:
    from PIL import Image

    from ovd.evaluation.comparison import montage

    picture = Image.fromarray(montage(pictures)).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    with atomic_write(path) as temporary:
        picture.save(temporary, "png", optimize=True)
