"""Write the annotation files of a split: base classes only for training, base and novel classes for evaluation.

Category ids become labels: bases first from 0, then novels. Images are all kept. Files go to
DATA_ROOT/annotations/<name of the source>_<split>.json (..._<split>_val.json for evaluation if training has the same
source), with a manifest beside each.

  tools/build_zsl_dataset.py --split 48_17                        # data/coco/annotations/instances_{train,val}2017.json
  tools/build_zsl_dataset.py --split 866_337 --data-root /d/lvis  # .../annotations/lvis_v1_{train,val}.json
  tools/build_zsl_dataset.py --split data/mine/annotations/split.json    # .../annotations/{train,val}.json
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from msgspec.structs import replace as with_fields

from ovd.data.annotation_table import AnnotationTable, read_table
from ovd.data.annotations import Image
from ovd.engine.workers import available_cores
from ovd.errors import UserError, nearest
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, publish
from ovd.vocabulary import official
from ovd.vocabulary.classes import canonical
from ovd.vocabulary.splits import Split, get_split

STAGE = "build-zsl"
_SOURCES = {"coco": "instances_{}2017.json", "lvis_v1": "lvis_v1_{}.json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the stage."""
    parser.add_argument("config", nargs="?", metavar="CONFIG",
                        help="config to take split, data_root, train_ann and val_ann from")
    parser.add_argument("--split", help="48_17, 65_15, 60_20, 866_337, voc_split1, ...; a split .json or a .txt of "
                        "names (all base)")
    parser.add_argument("--data-root", metavar="D", help="data folder, by default data/coco, data/lvis_v1, ...")
    parser.add_argument("--subset", nargs="+", choices=("train", "val"), default=["train", "val"], help="what to build")
    parser.add_argument("--train-ann", metavar="F", help="source for training (below the data folder or not)")
    parser.add_argument("--val-ann", metavar="F", help="source for evaluation")
    parser.add_argument("--keep-ids", action="store_true",
                        help="keep category ids and the whole category list, as BARON, Detic (..._original_ids.json)")
    parser.add_argument("--drop-empty", action="store_true",
                        help="drop images that are left without annotations (..._min.json)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                        help="skip: leave out unusable annotations, and record them in the manifest")
    parser.add_argument("--no-count-check", action="store_true",
                        help="accept files with as many images as the official ones but other annotations")
    parser.add_argument("--overwrite", action="store_true", help="build again what was built otherwise")


def run(args: argparse.Namespace) -> None:
    """Build the files that ``args`` ask for."""
    split, root, sources = _inputs(args)
    build_split(
        split, root, sources, subsets=args.subset, keep_ids=args.keep_ids, drop_empty=args.drop_empty,
        on_error=args.on_error, check_counts=not args.no_count_check, overwrite=args.overwrite,
    )  # fmt: skip


def _inputs(args: argparse.Namespace) -> tuple[Split, Path, dict[str, Path | None]]:
    """The split, the data folder and the source file of each subset, from the config and the command line."""
    name, root = args.split, args.data_root
    given: dict[str, str | None] = {"train": args.train_ann, "val": args.val_ann}
    from_config = {}
    if args.config:
        from ovd.engine.config import load_config  # loads mmengine: only if it is needed

        config = load_config(args.config, data_root=root)
        name = name or config.get("split")
        root = root or config.get("data_root")
        from_config = {"train": config.get("train_ann"), "val": config.get("val_ann")}
    if not name:
        raise UserError("say which split to build: --split 48_17, 65_15, 866_337, or a .json or .txt file")
    split = get_split(name, root=root or ".")
    root = Path(root or _default_root(split, str(name)))
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist; give it with --data-root")
    default = _SOURCES.get(split.dataset, "{}.json")
    sources = {}
    for subset in ("train", "val"):
        ours = from_config.get(subset)
        name = given[subset] or (_source_name(ours, split) if ours else default.format(subset))
        sources[subset] = _find(root, name)
        if subset in args.subset and sources[subset] is None:
            raise _not_found(root, subset, name)
    return split, root, sources


def _default_root(split: Split, name: str) -> Path:
    path = Path(name)
    if path.suffix and path.parent.name == "annotations":
        return path.parent.parent
    if split.dataset == "custom":
        raise UserError(f"split {split.name} is of no known dataset: give its data folder with --data-root")
    return Path("data", split.dataset)


def _source_name(name: str, split: Split) -> str:
    """A config names the file that this stage writes: the source is the same name without the split."""
    path = Path(name)
    return str(path.with_name(path.stem.partition(f"_{split.name}")[0] + path.suffix))


def _find(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / "annotations" / name, Path(name)) if path.is_file()), None)


def _not_found(root: Path, subset: str, name: str) -> UserError:
    folder = (root / name).parent if Path(name).parent.name else root / "annotations"
    near = nearest(Path(name).name, (file.name for file in folder.glob("*.json") if ".manifest" not in file.name), 1)
    return UserError(
        f"the annotation file {folder / Path(name).name} does not exist{near} (--{subset}-ann names another, "
        "--subset chooses what to build)"
    )


@dataclass
class Built:
    """A file of a split: where it is, what is in it, and how many annotations of its source are not."""

    path: Path
    counts: official.Counts
    categories: int
    dropped: int
    skipped: int
    verdict: str


def build_split(
    split: Split, root: Path, sources: dict[str, Path | None], *, subsets: Sequence[str] = ("train", "val"),
    keep_ids: bool = False, drop_empty: bool = False, on_error: str = "stop", check_counts: bool = True,
    overwrite: bool = False,
) -> list[Built]:
    """Write the files of ``split`` for ``subsets``, from the annotation file of each: all of them, or none.

    Files that are current are skipped. Prints what is done and a table of counts.

    Raises:
        UserError: a bad source, a class that a source lacks, counts that cannot be, or a file in the way.
    """
    suffix = f"_{split.name}" + ("_original_ids" if keep_ids else "") + ("_min" if drop_empty else "")
    to_build, built = [], []
    for subset in sorted(set(subsets)):
        source = sources[subset]
        shared = subset == "val" and source == sources.get("train")
        target = root / "annotations" / f"{source.stem}{suffix}{'_val' if shared else ''}.json"
        config = {"split": split.to_json(), "subset": subset, "keep_ids": keep_ids, "drop_empty": drop_empty,
                  "on_error": on_error}  # fmt: skip
        inputs = {"annotations": fingerprint(source)}
        if not overwrite and current_or_remove(target, STAGE, config, inputs):
            built.append(_from_manifest(target))
        else:
            to_build.append((subset, source, target, Manifest("annotations", STAGE, config, inputs)))
    with ExitStack() as files:  # they appear together, at the end
        for subset, source, target, manifest in to_build:
            start = time.perf_counter()
            print(f"{subset}: reading {source} ({source.stat().st_size / 1e6:,.1f} MB)", flush=True)
            loaded = read_table(source, on_error, reading_processes(source))
            try:
                result = apply_split(loaded, split, novel=subset == "val", keep_ids=keep_ids, drop_empty=drop_empty)
            except UserError as error:
                raise UserError(f"{source}: {error}") from None
            found = count(result)
            verdict = _check_counts(source, split, subset, loaded, found, check_counts, drop_empty)
            temporary, manifest = files.enter_context(publish(target, manifest))
            print(f"{subset}: writing {target}", flush=True)
            result.write(temporary)
            manifest.counts = {
                **asdict(found), "categories": len(result.categories),
                "dropped": len(loaded.columns) - found.annotations, "skipped": len(loaded.skipped),
                "official": verdict,
            }  # fmt: skip
            manifest.skipped = loaded.skipped
            manifest.wall_seconds = round(time.perf_counter() - start, 3)
            del loaded, result  # a subset at a time in memory
    built += [_from_manifest(target) for _, _, target, _ in to_build]
    _print_table(built, {target for _, _, target, _ in to_build})
    return built


def apply_split(
    loaded: AnnotationTable, split: Split, *, novel: bool, keep_ids: bool = False, drop_empty: bool = False
) -> AnnotationTable:
    """The records of ``loaded`` that belong to ``split``, as a new table over the same text; ``loaded`` stays as it is.

    Annotations of base classes are kept, those of novel classes if ``novel``; a category's new id is its label in the
    split, in LVIS's ``neg_category_ids`` and ``not_exhaustive_category_ids`` too (OADP's rule). Classes outside the
    split go with their annotations. Order is kept, but categories are sorted by their new id.

    Args:
        keep_ids: leave ids and categories as they are, and only drop annotations (the rule of BARON and Detic).
        drop_empty: drop images that have no annotation left.
    """
    labels = _labels_by_category(loaded, split)
    last = len(split.classes) if novel else split.num_base
    new_ids = np.array(sorted(labels.items()), np.int64).reshape(-1, 2)  # old id, label
    images, categories, columns = loaded.images, loaded.categories, loaded.columns
    place = np.searchsorted(new_ids[:-1, 0], columns.category_id)
    wanted = (new_ids[place, 0] == columns.category_id) & (new_ids[place, 1] < last)
    columns = columns[wanted]
    if drop_empty:
        annotated = set(columns.image_id.tolist())
        images = [image for image in images if image.id in annotated]
    if not keep_ids:
        columns = replace(columns, category_id=new_ids[place[wanted], 1])
        images = [_relabelled(image, labels) for image in images]
        categories = [with_fields(one, id=labels[one.id]) for one in categories if one.id in labels]
        categories.sort(key=lambda category: category.id)
    return replace(loaded, images=images, columns=columns, categories=categories)


def _labels_by_category(loaded: AnnotationTable, split: Split) -> dict[int, int]:
    """Labels by the category ids of the file, matched by name."""
    in_file = {canonical(category.name) for category in loaded.categories}
    missing = [name for name in split.classes if canonical(name) not in in_file]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"there is no category {missing[0]!r}{more} of the split {split.name}"
            f"{nearest(missing[0], (category.name for category in loaded.categories))}"
        )
    return {category.id: split.label(category.name) for category in loaded.categories if category.name in split}


def _relabelled(image: Image, labels: dict[int, int]) -> Image:
    absent, unfinished = image.neg_category_ids, image.not_exhaustive_category_ids
    if not absent and not unfinished:
        return image
    return with_fields(
        image,
        neg_category_ids=[labels[i] for i in absent if i in labels] if absent else absent,
        not_exhaustive_category_ids=[labels[i] for i in unfinished if i in labels] if unfinished else unfinished,
    )


def count(table: AnnotationTable) -> official.Counts:
    """Numbers of images, of annotations, and of images with an annotation."""
    return official.Counts(len(table.images), len(table.columns), len(np.unique(table.columns.image_id)))


def _check_counts(source: Path, split: Split, subset: str, loaded: AnnotationTable, found: official.Counts, check: bool,
                  drop_empty: bool) -> str:
    """``"ok"`` if ``source`` is the official file and so many records are left as must be, ``"-"`` if it is another."""
    if not check or not official.is_official(split, subset, len(loaded.images)):
        return "-"
    expected = official.RESULTS.get((split.name, subset))
    if expected and drop_empty:
        found = replace(found, images=len(loaded.images))  # the expected figures are those of the whole file
    wrong = count(loaded).differences(official.SOURCES[split.dataset, subset])
    wrong = wrong or (found.differences(expected) if expected else [])
    if wrong:
        raise UserError(
            f"{source} has the {len(loaded.images):,} images of the official file but {' and '.join(wrong)} for "
            f"{split.name}; fetch it again, or pass --no-count-check if it was annotated anew"
        )
    return "ok"


def reading_processes(source: Path) -> int:
    """Processes that read a file: one until half a gigabyte, where another one takes longer to start than it saves."""
    return max(1, min(4, available_cores(), source.stat().st_size >> 28))


def _from_manifest(target: Path) -> Built:
    counts = Manifest.read(target).counts
    return Built(
        target, official.Counts(counts["images"], counts["annotations"], counts["annotated_images"]),
        counts["categories"], counts["dropped"], counts["skipped"], counts["official"],
    )  # fmt: skip


def _print_table(files: Sequence[Built], new: set[Path]) -> None:
    header = ("file", "images", "with objects", "annotations", "dropped", "categories", "official counts", "")
    rows = [header]
    for file in files:
        counts = file.counts
        numbers = (counts.images, counts.annotated_images, counts.annotations, file.dropped, file.categories)
        state = "written" if file.path in new else "current, skipped"
        rows.append((str(file.path), *(f"{number:,}" for number in numbers), file.verdict, state))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for name, *cells in rows:
        aligned = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:]))
        print("  ".join((f"{name:<{widths[0]}}", *aligned)).rstrip())
    for file in files:
        if file.skipped:
            print(f"{file.path.name}: {file.skipped:,} unusable annotations were left out; its manifest lists them")
