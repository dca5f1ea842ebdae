"""``ovd show splits``."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ovd.data.annotations import Annotation, load_annotations
from ovd.data.boxes import corners
from ovd.errors import UserError, nearest
from ovd.evaluation.picture_sheet import Panel
from ovd.evaluation.pictures import BLUE, GREY, VERMILION, draw_instances, fitted
from ovd.stores.manifest import Manifest
from ovd.vocabulary.splits import Split
from pipelines.show.findings import Findings, count
from pipelines.show.request import Dataset, Request
from pipelines.show.sheets import SIDE, panels_of, write_sheets

COLOURS = {"base": BLUE, "novel": VERMILION, "removed": GREY}
LISTED = 24  # names of a group that are printed

Key = tuple[int, tuple[float, ...]]  # image id and box: what a record is known by after category ids were changed


def show_splits(request: Request, split: str | None = None, training_file: str | Path | None = None) -> int:
    """Draw base, novel and removed boxes, and hold the training file against the split; returns the exit status.

    Args:
        split: A name or a file; by default the config's.
        training_file: By default the config's ``train_ann``, where it exists.

    Raises:
        UserError: Wrong or missing input.
    """
    chosen_split = request.split(split)
    if chosen_split is None:
        raise UserError("no split: pass --split (48_17, 866_337, ... or a file), or a CONFIG that has one")
    training = Path(training_file) if training_file else \
        request.path("train_ann") if request.subset == "train" else None
    if training is not None and not training.is_file():
        if training_file:
            raise UserError(f"--training-file {training}: no such file")
        print(f"{training}: not made yet; ovd build-zsl makes it")
        training = None
    data = request.dataset(_all_classes(request, training))
    group_of = {category_id: _group(name, chosen_split) for category_id, name in data.names.items()}
    findings = Findings()
    records = _kept(training, chosen_split, data, findings) if training and training != data.path else {}
    counts = _report(data, chosen_split, group_of, findings)
    leaked = _check_training(training, data, chosen_split, group_of, records, findings) if records else set()
    wanted = data.labels_of(request.classes)

    def draw(image_id: int) -> Panel:
        found = data.objects[image_id]
        picture, boxes, _ = fitted(np.asarray(data.pictures.image(image_id)), corners([a.bbox for a in found]), SIDE)
        groups = [group_of[a.category_id] for a in found]
        tags = [_tag(data.names[a.category_id], leaked and _key(a) in leaked) if not wanted or a.category_id in wanted
                else "" for a in found]
        picture = draw_instances(picture, boxes, tags, [0] * len(found), colours=[COLOURS[g] for g in groups],
                                 line_width=2)
        here = Counter(groups)
        return Panel(picture, data.pictures.names[image_id], (", ".join(f"{here[g]} {g}" for g in COLOURS if here[g])
                                                              or "no objects",))

    panels = panels_of(request.choose(data), draw, findings)
    boxes_of = {group: sum(n for c, n in counts.items() if group_of[c] == group) for group in COLOURS}
    classes_of = Counter(group_of.values())
    legend = [(COLOURS[g], f"{g}: {count(classes_of[g], 'class', 'classes')}, {count(boxes_of[g], 'box', 'boxes')}")
              for g in COLOURS if classes_of[g]]
    write_sheets(request.out, "splits", f"Split {chosen_split.name} on {data.path.name}",
                 f"training sees the base boxes of {training.name}" if training else "training sees base boxes only",
                 panels, legend=legend, warnings=findings.wrong)
    return findings.report("orange boxes on classes that you mean to be novel, blue ones on all others; grey ones are "
                           "of neither group, and nobody sees them")


def _all_classes(request: Request, training: Path | None) -> str | Path | None:
    """The file before the split: the one that is named, the config's, or the one that the training file is made from.

    None for the subset's own file.
    """
    if request.annotations:
        return request.annotations
    support = request.path("support_ann")
    if request.subset == "train" and support is not None and support.is_file():
        return support
    if training is None:
        return None
    try:
        made = Manifest.read(training)
        name = made.config["split"]["name"]
    except (UserError, KeyError, TypeError):
        return None
    source = training.with_name(training.stem.partition(f"_{name}")[0] + training.suffix)
    return source if source != training and source.is_file() else None


def _group(name: str, split: Split) -> str:
    if name not in split:
        return "removed"
    return "base" if split.label(name) < split.num_base else "novel"


def _key(record: Annotation) -> Key:
    return record.image_id, tuple(record.bbox)


def _tag(name: str, leaked: bool) -> str:
    return f"{name} (IN TRAINING)" if leaked else name


def _report(data: Dataset, split: Split, group_of: Mapping[int, str], findings: Findings) -> Counter:
    """Print groups, names and counts; returns the boxes of each category."""
    counts = Counter(a.category_id for a in data.annotations.annotations)
    images = Counter(c for found in data.objects.values() for c in {a.category_id for a in found})
    print(f"{data.path}: split {split.name}")
    for group in COLOURS:
        members = sorted((c for c, g in group_of.items() if g == group), key=lambda c: (-counts[c], data.names[c]))
        with_any = {i for i, found in data.objects.items() if any(group_of[a.category_id] == group for a in found)}
        print(f"{group:<8} {count(len(members), 'class', 'classes')}, {sum(counts[c] for c in members):,} boxes in "
              f"{count(len(with_any), 'image')}")
        if members:
            shown = ", ".join(f"{data.names[c]} {counts[c]:,}/{images[c]:,}" for c in members[:LISTED])
            print(f"         {shown}" + (f", and {len(members) - LISTED} more" if len(members) > LISTED else ""))
    print("         (name boxes/images)")
    present = {split.label(name) for name in data.names.values() if name in split}
    if absent := [name for label, name in enumerate(split.classes) if label not in present]:
        findings.wrong.append(f"{data.path} has no category for {count(len(absent), 'class', 'classes')} of the split, "
                              f"such as {absent[0]!r}{nearest(absent[0], data.names.values())}: this is another "
                              "dataset's split, or names are spelled otherwise")
    if novel := [c for c, g in group_of.items() if g == "novel"]:
        if not any(counts[c] for c in novel):
            findings.notes.append("no novel class has a box here, so nothing can be seen of them: for all classes pass "
                                  "the file before the split with --annotations")
    else:
        findings.notes.append("no class is novel")
    return counts


def _kept(training: Path, split: Split, data: Dataset, findings: Findings) -> dict[Key, str]:
    """The records of the training file, each with the group of its class."""
    records = load_annotations(training)
    groups = {c.id: _group(c.name, split) for c in records.categories}
    unknown = {image.id for image in records.images} - set(data.pictures.photos)
    if unknown:
        findings.wrong.append(f"{training}: has {count(len(unknown), 'image')} that {data.path} does not have, such as "
                              f"{min(unknown)}: they are not of one dataset")
    return {_key(a): groups[a.category_id] for a in records.annotations}


def _check_training(training: Path, data: Dataset, split: Split, group_of: Mapping[int, str], records: dict[Key, str],
                    findings: Findings) -> set[Key]:
    """Print what training sees, note what it should not; returns the novel records among it."""
    truth = {_key(a): group_of[a.category_id] for a in data.annotations.annotations}
    leaked = {key for key in records if truth.get(key, records[key]) == "novel"}
    base = {key for key, group in truth.items() if group == "base"}
    missing = len(base - records.keys())
    print(f"{training}: training sees {len(records):,} boxes, {len(base) - missing:,} of {len(base):,} base ones")
    if leaked:
        classes = {data.names[a.category_id] for a in data.annotations.annotations if _key(a) in leaked}
        which = f" ({', '.join(sorted(classes)[:4])}{', ...' * (len(classes) > 4)})" if classes else ""
        findings.wrong.append(f"{training}: {count(len(leaked), 'box', 'boxes')} of novel classes{which} would be "
                              f"trained on: make it again with ovd build-zsl, for split {split.name}")
    if base and missing > 0.01 * len(base):
        findings.wrong.append(f"{training}: lacks {missing:,} of the {len(base):,} base boxes of {data.path}: it was "
                              "made for another split, or from another file")
    return leaked
