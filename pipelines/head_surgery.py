"""Give a trained detector another list of classes, by name: rows of known classes are copied to the bit.

  ovd head-surgery work_dirs/shapes_base/final.pth --split data/shapes/annotations/split.json \\
      --out work_dirs/shapes_base/init.pth
  ovd head-surgery base.pth --split 60_20 --part novel --out novel_init.pth
  ovd head-surgery base.pth --split 60_20 --method combine --novel-checkpoint novel.pth --out both.pth
  ovd head-surgery detector.pth --classes cat dog "fire hydrant" --method remove --out three.pth

Reads a checkpoint with a classifier row for each class (fc_cls with background, cls_logits or conv_cls with sigmoids);
class-wise box regressors (fc_reg) and mask heads (conv_logits) are treated alike. Writes a checkpoint that carries the
new names, to start training from (--cfg-options load_from=FILE) or to test. New classes' rows, by --method:

  random   N(0, 0.01) from --seed, for fine-tuning
  text     predicted from the names' CLIP embeddings in --class-head, by what the trained classes teach
  combine  taken by name from --novel-checkpoint, trained on these classes alone
  remove   there must not be any: the classes named are those that stay
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovd.errors import UserError

if TYPE_CHECKING:
    from ovd.engine.head_surgery import ClassHeadLayers, Operation, RowSource

STAGE = "head-surgery"
METHODS = ("random", "text", "combine", "remove")
NEEDS = {"text": "class_head", "combine": "novel_checkpoint"}  # method -> the file it reads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/head_surgery.py``."""
    parser.add_argument("checkpoint", type=Path, help="the detector, such as work_dirs/shapes_base/final.pth")
    classes = parser.add_mutually_exclusive_group(required=True)
    classes.add_argument("--split", help="the new classes are those of a split, base first: a name or a json")
    classes.add_argument("--classes", nargs="+", metavar="NAME", help="the new classes in the order of the rows")
    parser.add_argument("--part", choices=("base", "novel", "all"), default="all",
                        help="which classes of the split (%(default)s)")
    parser.add_argument("--method", choices=METHODS, default="random", help="where new rows come from (%(default)s)")
    parser.add_argument("--novel-checkpoint", type=Path, metavar="CKPT2", help="for --method combine")
    parser.add_argument("--class-head", type=Path, metavar="FILE", help="for --method text: names old and new")
    parser.add_argument("--names", metavar="FILE", help="the checkpoint's class names, where it does not carry them: "
                        "a .txt list, one a line, or a split")
    parser.add_argument("--novel-names", metavar="FILE", help="the same for --novel-checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of random rows (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="INIT.pth", help="the checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="make it again")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/head_surgery.py`` and ``ovd head-surgery``."""
    head_surgery(args.checkpoint, args.out, split=args.split, classes=args.classes, part=args.part, method=args.method,
                 novel_checkpoint=args.novel_checkpoint, class_head=args.class_head, names=args.names,
                 novel_names=args.novel_names, seed=args.seed, overwrite=args.overwrite)


def head_surgery(checkpoint: Path, out: Path, *, split: str | None = None, classes: Sequence[str] | None = None,
                 part: str = "all", method: str = "random", novel_checkpoint: Path | None = None,
                 class_head: Path | None = None, names: str | None = None, novel_names: str | None = None,
                 seed: int = 0, overwrite: bool = False) -> "Operation | None":
    """Write ``out``: ``checkpoint`` with the classes of ``split`` or ``classes``; what was done, None if up to date.

    Args:
        checkpoint: The detector.
        split, classes, part: The new classes; one of the first two.
        method, novel_checkpoint, class_head, seed: Where rows of new classes come from; see the module.
        names, novel_names: Files with the checkpoints' class names, where they do not carry them.
        overwrite: Make an up-to-date file again.

    Raises:
        UserError: Wrong input.
    """
    import torch

    from ovd.engine.checkpoints import read_checkpoint
    from ovd.engine.head_surgery import find_class_layers, operate
    from ovd.engine.marks import FLAG, marked, warn
    from ovd.engine.smoke import FLAG as SMOKE
    from ovd.engine.smoke import smoked
    from ovd.engine.smoke import warn as warn_of_smoke
    from ovd.stores.class_registry import load_classes
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, publish

    started = time.perf_counter()
    _check(method, out, {"novel_checkpoint": novel_checkpoint, "class_head": class_head}, split, part)
    sources = {key: path for key, path in (("checkpoint", checkpoint), ("novel_checkpoint", novel_checkpoint),
                                           ("class_head", class_head)) if path is not None}
    for key, path in sources.items():
        if not Path(path).is_file() and not (key == "class_head" and Path(path).is_dir()):  # a registry is a folder
            raise UserError(f"{path}: no such file")
        if out.exists() and out.samefile(path):
            raise UserError(f"--out {out}: is the file that is read; name another one")
    targets = _targets(split, classes, part)
    given, novel_given = _names(names), _names(novel_names)
    config = {"classes": targets, "method": method, "names": given, "novel_names": novel_given,
              "seed": seed if method == "random" else None}
    if class_head is not None:
        load_classes(class_head)  # says what is wrong with a registry
    inputs = {key: fingerprint(path) for key, path in sources.items()}
    if current_or_remove(out, STAGE, config, inputs, overwrite):
        print(f"{out} is up to date")
        return None
    contents = read_checkpoint(checkpoint)
    head = find_class_layers(contents, given, str(checkpoint))
    if split is not None and part != "novel":
        _check_base(split, head, checkpoint)
    rows = _row_source(method, head, novel_checkpoint, novel_given, class_head, seed)
    operation = operate(head, targets, rows)
    meta = {**(contents.get("meta") or {}), "classes": list(operation.names), "num_base": operation.num_base}
    meta.pop("dataset_meta", None)
    untrained, smokes = marked(sources.values()), smoked(sources.values())
    warn(untrained, "The checkpoint serves")
    warn_of_smoke(smokes)
    flags = ({FLAG: True} if untrained else {}) | ({SMOKE: True} if smokes else {})
    out.parent.mkdir(parents=True, exist_ok=True)
    counts = {"copied": len(operation.copied), "made": len(operation.made), "removed": len(operation.removed)}
    manifest = Manifest("checkpoint", STAGE, config, inputs, counts=counts, flags=flags)
    manifest.wall_seconds = round(time.perf_counter() - started, 3)
    with publish(out, manifest) as (temporary, _), open(temporary, "wb") as file:
        torch.save({"state_dict": operation.weights, "meta": meta}, file)
    print(operation)
    print(f"{len(head.names)} classes before, {len(operation.names)} after: {out}")
    return operation


def _check(method: str, out: Path, files: dict[str, Path | None], split: str | None, part: str) -> None:
    """Refuse options that do not go together."""
    if method not in METHODS:
        raise UserError(f"--method {method!r} is not one of {', '.join(METHODS)}")
    if out.suffix != ".pth":
        raise UserError(f"--out {out}: name a .pth file")
    for owner, key in NEEDS.items():
        option = f"--{key.replace('_', '-')}"
        if method == owner and files[key] is None:
            raise UserError(f"--method {method} needs {option} FILE")
        if method != owner and files[key] is not None:
            raise UserError(f"{option}: belongs to --method {owner}, not to {method}")
    if split is None and part != "all":
        raise UserError("--part: belongs to --split")


def _targets(split: str | None, classes: Sequence[str] | None, part: str) -> tuple[str, ...]:
    from ovd.vocabulary.splits import get_split

    if split is None:
        return tuple(classes or ())
    chosen = get_split(split)
    names = chosen.classes if part == "all" else getattr(chosen, part)
    if not names:
        raise UserError(f"split {chosen.name} has no {part} classes")
    return names


def _names(source: str | None) -> tuple[str, ...] | None:
    from ovd.vocabulary.splits import get_split

    return None if source is None else get_split(source).classes


def _check_base(split: str, head: "ClassHeadLayers", checkpoint: Path) -> None:
    """The checkpoint must know the split's base classes, or a wrong split would pass for new classes."""
    from ovd.errors import nearest
    from ovd.vocabulary.classes import canonical
    from ovd.vocabulary.splits import get_split

    known = head.index()
    missing = [name for name in get_split(split).base if canonical(name) not in known]
    if missing:
        raise UserError(f"{checkpoint}: has no row for {len(missing)} base classes of split {split}, the first is "
                        f"{missing[0]!r}{nearest(missing[0], head.names)}")


def _row_source(method: str, head: "ClassHeadLayers", novel_checkpoint: Path | None,
                novel_names: tuple[str, ...] | None, class_head: Path | None, seed: int) -> "RowSource | None":
    from ovd.engine.checkpoints import read_checkpoint
    from ovd.engine.head_surgery import RandomRows, RowsOfCheckpoint, find_class_layers
    from ovd.engine.rows_from_names import PredictedRows
    from ovd.stores.class_registry import load_classes

    if method == "random":
        return RandomRows(seed)
    if method == "combine":
        other = find_class_layers(read_checkpoint(novel_checkpoint), novel_names, str(novel_checkpoint))
        return RowsOfCheckpoint(other, str(novel_checkpoint))
    return PredictedRows(head, load_classes(class_head)) if method == "text" else None
