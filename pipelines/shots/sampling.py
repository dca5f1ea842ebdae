"""Draw shots from annotation files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovd.data.annotations import Annotations
from ovd.errors import UserError, nearest
from ovd.fewshot.shots import MIN_SIZE, ShotSet, sample_shots
from ovd.stores.manifest import current_or_remove
from ovd.vocabulary.classes import canonical
from ovd.vocabulary.splits import Split, get_split
from pipelines.shots.sources import STAGE, folders, inputs_of, named, publish_shots, read_pool, root_of


def sample(annotations: Sequence[str | Path], out: str | Path, *, image_root: Sequence[str | Path] = (),
           classes: Sequence[str] | None = None, split: str | None = None, shots: int | None = None,
           shots_of: Mapping[str, int] | None = None, num_base_shots: int | None = None,
           num_novel_shots: int | None = None, seed: int = 0, min_size: float = MIN_SIZE,
           with_replacement: bool = False, overwrite: bool = False) -> Path:
    """Draw shots and write them; a file that is current is left.

    Args:
        annotations: COCO or LVIS files; drawn from as if they were one.
        image_root: A folder for each (or one for all), in which the chosen images are then looked for; file names in
            the shots are relative to the deepest folder that all of them are in.
        classes, split, shots, shots_of, num_base_shots, num_novel_shots: Which classes, and how many of each.
        Others: as for :func:`ovd.fewshot.shots.sample_shots`.

    Raises:
        UserError: an unknown class, more shots than there are, an image that is missing or of another size.
    """
    out, shots_of = Path(out), dict(shots_of or {})
    chosen = get_split(split) if split else None
    _check_numbers(chosen, shots, shots_of, num_base_shots, num_novel_shots)
    if not math.isfinite(min_size):
        raise UserError(f"--min-size {min_size:g}: give pixels, 0 or more")
    root = root_of(annotations, image_root)
    config = {"command": "sample", "classes": list(classes) if classes else None,
              "split": chosen.to_json() if chosen else None, "shots": shots, "shots_of": shots_of,
              "num_base_shots": num_base_shots, "num_novel_shots": num_novel_shots, "seed": seed, "min_size": min_size,
              "with_replacement": with_replacement, "folders": folders(annotations, image_root)}
    inputs = inputs_of(annotations=annotations)
    if current_or_remove(out, STAGE, config, inputs, overwrite):
        print(f"{out} is up to date")
        return out
    records = read_pool(annotations, image_root)
    wanted = wanted_shots(records, classes, chosen, shots, shots_of, num_base_shots, num_novel_shots)
    sources = [{"file": Path(path).name, "sha256": digest} for path, digest in zip(annotations, inputs.values())]
    try:
        drawn = sample_shots(records, list(wanted), wanted, seed, replacement=with_replacement, min_size=min_size,
                             info={"sources": sources})
    except UserError as error:
        raise UserError(f"{named(annotations)}: {error}") from None
    if root is not None:
        drawn.check(root)
    publish_shots(out, drawn, config, inputs)
    _tell_repeats(drawn)
    return out


def _check_numbers(split: Split | None, shots: int | None, shots_of: Mapping[str, int], num_base: int | None,
                   num_novel: int | None) -> None:
    by_group = {"--num-base-shots": (num_base, "base"), "--num-novel-shots": (num_novel, "novel")}
    for option, (number, group) in by_group.items():
        if number is None:
            continue
        if split is None:
            raise UserError(f"{option}: which classes are {group} is not said; give --split")
        if shots is not None:
            raise UserError(f"--shots and {option}: give the first for all classes, or the second for some")
        if not getattr(split, group):
            raise UserError(f"{option}: split {split.name} has no {group} classes; leave it out")
        if number < 0:
            raise UserError(f"{option} {number}: give 0 or more")
    if shots is not None and shots < 1:
        raise UserError(f"--shots {shots}: give one or more")
    if shots is None and num_base is None and num_novel is None and not shots_of:
        raise UserError("it is not said how many shots are wanted; give --shots, such as --shots 5")


def wanted_shots(records: Annotations, classes: Sequence[str] | None, split: Split | None, shots: int | None,
                 shots_of: Mapping[str, int], num_base: int | None, num_novel: int | None) -> dict[str, int]:
    """How many shots of each class, in order: that of ``classes``, of ``split`` (bases first) or of the records."""
    if split is not None:
        groups = ((split.base, num_base), (split.novel, num_novel))
        number_of = {name: shots if shots is not None else number or 0 for names, number in groups for name in names}
    elif classes is None and shots is None:
        number_of = dict.fromkeys(shots_of, 0)
    else:
        names = classes or [category.name for category in records.categories]
        number_of = dict.fromkeys(names, shots or 0)
        if len(number_of) < len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise UserError(f"class {doubled!r} is asked for twice; name every class once")
    by_name = {canonical(name): name for name in number_of}
    for name, number in shots_of.items():
        if canonical(name) not in by_name:
            raise UserError(f"--shots-of {name}={number}: that class is not among those asked for"
                            f"{nearest(name, number_of)}")
        number_of[by_name[canonical(name)]] = number
    if not any(number_of.values()):
        raise UserError("no shots of any class are asked for; give --shots, or --shots-of for some class")
    return number_of


def _tell_repeats(shots: ShotSet) -> None:
    distinct = {name: len(set(of_class)) for name, of_class in shots.classes.items()}
    repeated = {name: number for name, number in distinct.items() if number < len(shots[name])}
    if repeated:
        some = ", ".join(f"{name} ({number})" for name, number in list(repeated.items())[:5])
        print(f"note: {len(repeated)} class{'es have' if len(repeated) > 1 else ' has'} fewer boxes than shots, so "
              f"some are repeated: {some}{', ...' if len(repeated) > 5 else ''}")
