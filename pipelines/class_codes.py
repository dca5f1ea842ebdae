"""Make classes from a few boxes with a trained detector, without training, and keep them in a registry.

    ovd class-codes configs/shapes/vild.py work_dirs/vild/final.pth --method prototype --shots 5 --out data/my_classes
    ovd class-codes CONFIG CHECKPOINT --shots 5 --seed 1 --out work_dirs/codes
    ovd class-codes CONFIG CHECKPOINT --boxes boxes.csv --images photos --out work_dirs/codes

The boxes are drawn from --annotations (novel classes of the config's split, or --classes), or come from a file of shots
or of boxes (csv, COCO json). codes are those of the detector's hypernetwork (configs/hyper_roi, configs/sylph); the
other methods use the detector's own embeddings of the boxes.

OUT is a registry: a file for each class, which says how it was made; more classes can be added to it, by this command
or by ovd classes. With --with-base it starts with the detector's base classes, so that ovd test --class-head OUT
detects all in one pass.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace as with_fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

    from ovd.fewshot.shots import ShotSet
    from ovd.stores.class_heads import ClassHead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/class_codes.py``."""
    add = parser.add_argument
    add("config", help="the detector's config")
    add("checkpoint", help="its checkpoint")
    add("--out", required=True, metavar="DIR", help="the registry to add the classes to")
    add("--shots", type=int, metavar="K", help="boxes a class (default: 5; of a file, all)")
    add("--seed", type=int, default=0, help="of the boxes that are drawn (%(default)s)")
    add("--classes", nargs="+", metavar="NAME", help="only these (default: the novel classes of the config's split; of "
        "a file, all of it)")
    add("--boxes", metavar="FILE", help="shots or boxes of your own, in place of drawing them")
    add("--annotations", metavar="FILE", help="json to draw boxes from (default: the config's support_ann)")
    add("--images", metavar="DIR", help="the folder of the images (default: the config's train_prefix)")
    add("--method", default="codes", help="codes of the hypernetwork, or prototype, matching, tip, cosine, ... "
        "(%(default)s)")
    add("--calibration-images", type=int, default=200, metavar="N", help="training images on whose base classes the "
        "scores of added ones are calibrated, for detectors with embeddings; 0: no calibration (%(default)s)")
    add("--with-base", action="store_true", help="begin with the detector's base classes, where the registry is new")
    add("--base-shots", type=int, metavar="K", help="with --with-base: make them of K boxes too, by the detector's "
        "hypernetwork (default: they are what training made them)")
    add("--with-replacement", action="store_true", help="classes with fewer boxes than shots have some twice")
    add("--replace", action="store_true", help="replace classes of these names")
    add("--data-root", help="use the dataset in this folder instead of the config's data_root")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/class_codes.py`` and ``ovd class-codes``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "checkpoint", "cfg_options")}
    class_codes(args.config, args.checkpoint, options=args.cfg_options, **options)
    return 0


def class_codes(config: str | Path, checkpoint: str | Path, *, out: str | Path, shots: int | None = None, seed: int = 0,
                classes: Sequence[str] | None = None, boxes: str | Path | None = None,
                annotations: str | Path | None = None, images: str | Path | None = None, method: str = "codes",
                calibration_images: int = 200, with_base: bool = False, base_shots: int | None = None,
                with_replacement: bool = False, replace: bool = False, data_root: str | Path | None = None,
                device: str = "auto", options: Sequence[str] | Mapping[str, Any] = ()) -> "ClassHead":
    """Make classes and add them to a registry, all or none.

    Args:
        options: changes of the config.
        Others: as the options of the command line.

    Returns:
        The head of the new classes.

    Raises:
        UserError: wrong input; too few boxes; a name that is taken; another detector's registry.
    """
    from ovd.engine.launch import choose_device, quiet

    quiet()
    import ovd.models  # noqa: F401 (its types are what configs name)
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.marks import FLAG, marked
    from ovd.engine.smoke import FLAG as SMOKE
    from ovd.engine.smoke import smoked
    from ovd.engine.smoke import warn as warn_of_smoke
    from ovd.fewshot.detection.detector import ShotDetector
    from ovd.fewshot.detection.evaluation import head_maker
    from ovd.fewshot.detection.methods import Method
    from ovd.stores.atomic import check_writable
    from ovd.stores.class_registry import ClassRegistry
    from ovd.stores.manifest import fingerprint
    from pipelines.fewshot_inputs import ShotSource, split_of

    start = time.perf_counter()
    if calibration_images < 0:
        raise UserError(f"--calibration-images {calibration_images}: needs 0 or more")
    source = Method.parse(method).source
    if source is None or source != method:
        raise UserError(f"--method {method}: boxes alone make codes; name one source, such as codes or prototype, and "
                        "add words with ovd classes add")
    if base_shots is not None and not with_base:
        raise UserError("--base-shots: is of the base classes that --with-base adds; pass both")
    registry = ClassRegistry(out)
    check_writable(registry.path)
    begins = with_base and not registry.names
    cfg = load_config(config, options, data_root)
    resolve_types(cfg)
    chosen, image_root = _shots(cfg, shots, seed, classes, boxes, annotations, images, with_replacement)
    registry.check_new(chosen.names, replace)
    chosen.check(image_root)
    detector = ShotDetector(cfg, checkpoint, image_root, choose_device(device))
    split, lessons = split_of(cfg), {}
    calibrated, of_boxes = bool(calibration_images) and detector.known is not None, begins and base_shots is not None
    if calibrated or of_boxes:
        base_source = ShotSource.read(cfg, annotations, None if boxes else images, replacement=True)
        base_detector = detector.at(base_source.image_root)
    if calibrated:
        lessons = {"calibration_images": calibration_images, "base_detector": base_detector,
                   "draw_base": partial(base_source.draw, split.base)}
    base = None
    if of_boxes:
        base = base_detector.base_head(split.base, base_source.draw_base(split.base, base_shots))
    elif calibrated or begins:
        base = detector.base_head(split.base)
    maker = head_maker(detector, [Method.parse(source)], {seed: chosen}, base, {}, split, (chosen.k,), **lessons)
    head = maker.added(Method.parse(source), chosen.k, seed)
    made_by = {"made_by": {"config": Path(config).name, "weights": fingerprint(checkpoint)}}
    head = _with_provenance(head, {**made_by, "seed": seed})
    smokes = smoked([checkpoint])
    warn_of_smoke(smokes)
    flags = ({FLAG: True} if marked([checkpoint]) else {}) | ({SMOKE: True} if smokes else {})
    if begins:
        registry.add(_with_provenance(base, made_by).concat(head), replace, flags=flags)
    else:
        registry.add(head, replace, flags=flags)
    boxes_made = sum(map(len, chosen.classes.values()))
    print(f"{len(head)} class{'es' * (len(head) != 1)} of {boxes_made} box{'es' * (boxes_made != 1)} in "
          f"{time.perf_counter() - start:.1f} s; {registry.path} has {len(registry.names)}")
    return head


def _with_provenance(head: "ClassHead", made_by: Mapping[str, Any]) -> "ClassHead":
    return with_fields(head, background=None, provenance=tuple({**origin, **made_by} for origin in head.provenance))


def _shots(cfg: "Config", shots: int | None, seed: int, classes: Sequence[str] | None, boxes: str | Path | None,
           annotations: str | Path | None, images: str | Path | None, replacement: bool) -> "tuple[ShotSet, Path]":
    """The boxes of each class, and the folder of their images."""
    from ovd.fewshot.boxes_file import first_boxes, read_boxes_file
    from pipelines.fewshot_inputs import ShotSource, of_config, split_of

    if shots is not None and shots < 1:
        raise UserError(f"--shots {shots}: needs one or more")
    if boxes is None:
        source = ShotSource.read(cfg, annotations, images, replacement=replacement)
        names = classes or split_of(cfg).novel
        return source.draw(names, 5 if shots is None else shots, seed), source.image_root
    if annotations is not None:
        raise UserError("--boxes and --annotations: boxes of a file are not drawn; leave --annotations out")
    found = read_boxes_file(boxes, classes)
    found = found if shots is None else first_boxes(found, shots, boxes)
    root = Path(images) if images else of_config(cfg, "train_prefix")
    if root is None or not root.is_dir():
        raise UserError(f"{root or boxes}: no folder of the images: pass --images DIR")
    return found, root
