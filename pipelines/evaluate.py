"""Evaluate a file of detections: AP of boxes and masks for base, novel and all classes, in one generalised pass.

The figures are those of the test run that wrote the file, to the last digit. Reads what `ovd test --out` writes (.json
or .pkl) and the results json of other projects: a list of {image_id, category_id, bbox, score[, segmentation]} with the
ids of the annotation file. All images of the annotation file count as searched, or those that a .pkl lists.

  tools/evaluate.py found.json --ann data/coco/annotations/instances_val2017_48_17.json --split 48_17
  tools/evaluate.py found.json --ann data/lvis_v1/annotations/lvis_v1_val_866_337.json --split 866_337 --protocol lvis
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ovd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/evaluate.py``."""
    parser.add_argument("detections", metavar="DETECTIONS", help="a .json or .pkl of detections")
    parser.add_argument("--ann", required=True, metavar="FILE", help="ground truth, COCO or LVIS json")
    parser.add_argument("--split", required=True, help="48_17, 65_15, 866_337, ...; a split .json or a .txt of names")
    parser.add_argument("--protocol", choices=("coco", "lvis"), default="coco",
                        help="lvis: federated, 300 detections an image, and rare, common and frequent classes apart")
    parser.add_argument("--eval", nargs="+", metavar="KIND",
                        help="bbox and / or segm (default: bbox, and segm where the detections have masks)")
    parser.add_argument("--max-dets", type=int, metavar="N",
                        help="detections that count per image (default: 100, or 300 for lvis)")
    parser.add_argument("--work-dir", metavar="DIR", help="write metrics.json there, with all digits")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/evaluate.py`` and ``ovd evaluate``."""
    evaluate_file(args.detections, args.ann, args.split, kinds=args.eval, protocol=args.protocol,
                  max_dets=args.max_dets, work_dir=args.work_dir)
    return 0


def evaluate_file(detections: str | Path, ann_file: str | Path, split: str, *, kinds: Sequence[str] | None = None,
                  protocol: str = "coco", max_dets: int | None = None,
                  work_dir: str | Path | None = None) -> dict[str, float]:
    """Evaluate a file of detections and print a table.

    Args:
        detections: the file, see :func:`ovd.evaluation.saved_detections.load_detections`.
        ann_file: ground truth.
        split: name or file of the split.
        kinds: ``bbox`` and / or ``segm``; None for what the file has.
        protocol: ``coco`` or ``lvis``.
        max_dets: detections that count per image; None for the protocol's number.
        work_dir: folder for metrics.json; None for none.

    Returns:
        ``{"base/ap50": per cent, ...}``.

    Raises:
        UserError: wrong input.
    """
    from ovd.evaluation.average_precision import GroundTruth, ap_figures, check_kinds, groups_of
    from ovd.evaluation.results import save_metrics
    from ovd.evaluation.saved_detections import load_detections
    from ovd.evaluation.table import ap_table
    from ovd.vocabulary.splits import get_split

    start = time.perf_counter()
    check_kinds(kinds or ())
    if max_dets is not None and max_dets < 1:
        raise UserError(f"--max-dets {max_dets}: needs a positive number")
    for path, what in ((detections, "detections"), (ann_file, "annotations")):
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file of {what}")
    classes = get_split(split)
    truth = GroundTruth(ann_file, classes.classes)
    found, images = load_detections(detections, truth, kinds)
    kinds = kinds or (("bbox",) if found.masks is None else ("bbox", "segm"))
    groups = groups_of(classes.all_groups(), truth.frequencies, protocol)
    figures, _ = ap_figures(truth, found, groups, kinds, protocol, images, max_dets)
    metrics = {f"{group}/{name}": value for group, row in figures.items() for name, value in row.items()}
    print(ap_table(metrics))
    searched = len(truth.images if images is None else images)
    where = "" if work_dir is None else f": {save_metrics(work_dir, metrics, {})}"
    print(f"{len(found):,} detections in {searched:,} images in {time.perf_counter() - start:.1f} s{where}")
    return metrics
