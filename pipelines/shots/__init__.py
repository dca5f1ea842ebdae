"""Choose the support boxes (shots) of classes, keep them in a file with a hash, look at them, fine-tune on them.

  tools/sample_shots.py sample --annotations data/coco/annotations/instances_train2017.json \\
      --image-root data/coco/train2017 --split 60_20 --shots 10 --seed 0 --out shots.json
  tools/sample_shots.py sample --annotations a.json --image-root a --annotations b.json --image-root b \\
      --classes zebra gadget --shots 5 --shots-of "gadget=3" --out shots.json
  tools/sample_shots.py import data/few_shot_ann/voc/benchmark_5shot --split voc_split1 \\
      --annotations data/voc/annotations/voc0712_trainval.json --out shots.json
  tools/sample_shots.py import boxes.csv --image-root photos --out shots.json
  tools/sample_shots.py show shots.json --image-root data/coco/train2017 --show-dir work_dirs/shots
  tools/sample_shots.py annotations shots.json --split 60_20 --out few_shot_train.json

sample: the shots for k are the first of those for k + 1 (of one seed), and no class changes another's. import reads
TFA's benchmark_Kshot folders, MMFewShot's saved datasets, and boxes of your own (csv, COCO json). annotations writes a
COCO json with the chosen boxes alone; several files of shots are merged.
"""

import argparse

from ovd.errors import UserError
from ovd.fewshot.shots import MIN_SIZE

FORMATS = ("tfa", "mmfewshot", "boxes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/sample_shots.py``."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="draw shots from annotation files")
    _add_sources(sample, "an annotation file, COCO or LVIS (VOC: of ovd voc-to-coco); repeatable", required=True)
    _add_classes(sample, "default: all of the annotations")
    sample.add_argument("--shots", type=int, metavar="K", help="of every class")
    sample.add_argument("--shots-of", action="append", default=[], metavar="NAME=K", help="of this class, instead; 0 "
                        "leaves it out; repeatable")
    sample.add_argument("--num-base-shots", type=int, metavar="K", help="of every base class of --split, instead of "
                        "--shots; without it, none")
    sample.add_argument("--num-novel-shots", type=int, metavar="K", help="of every novel class, likewise")
    sample.add_argument("--seed", type=int, default=0, help="another one draws other boxes (%(default)s)")
    sample.add_argument("--min-size", type=float, default=MIN_SIZE, metavar="PIXELS", help="leave out boxes with a "
                        "shorter side (%(default)g)")
    sample.add_argument("--with-replacement", action="store_true", help="repeat boxes of a class that has too few")
    _add_out(sample)

    import_ = commands.add_parser("import", help="shots that others chose, or boxes of your own")
    import_.add_argument("sources", nargs="+", metavar="SOURCE", help="a benchmark_Kshot folder, a json of MMFewShot's "
                         "save_dataset, or a csv or COCO json of boxes; several are merged")
    import_.add_argument("--format", choices=FORMATS, help="what they are (default: seen from the files)")
    _add_sources(import_, "of the images of TFA's lists; needed for VOC's (made by ovd voc-to-coco)")
    _add_classes(import_, "default: all that there are")
    import_.add_argument("--shots", type=int, metavar="K", help="the K first of each class; of TFA's folder, the lists "
                         "of K shots")
    import_.add_argument("--seed", type=int, default=0, help="for TFA's lists with more than K boxes (%(default)s)")
    _add_out(import_)

    show = commands.add_parser("show", help="what is in a file of shots, and whether it still fits")
    show.add_argument("file", metavar="FILE", help="a file of shots")
    _add_sources(show, "compare with this annotation file; repeatable")
    show.add_argument("--classes", nargs="+", metavar="NAME", help="only these")
    show.add_argument("--show-dir", metavar="D", help="write a contact sheet of each class into this folder; needs "
                      "--image-root")

    records = commands.add_parser("annotations", help="a COCO json of the chosen boxes, for fine-tuning")
    records.add_argument("files", nargs="+", metavar="FILE", help="files of shots, of one image root; merged in order")
    _add_sources(records, "take masks from the annotation file (or files) that the shots were drawn from")
    records.add_argument("--split", metavar="NAME", help="category ids are labels in this split (default: from 1)")
    records.add_argument("--instance-wise", action="store_true", help="an image record for every shot, with that box "
                         "alone; repeated shots stay")
    _add_out(records)


def _add_sources(parser: argparse.ArgumentParser, annotations: str, required: bool = False) -> None:
    parser.add_argument("--annotations", action="append", default=[], required=required, metavar="FILE",
                        help=annotations)
    parser.add_argument("--image-root", action="append", default=[], metavar="DIR", help="the folder of the images; "
                        "where there are several annotation files, of each, in their order")


def _add_classes(parser: argparse.ArgumentParser, default: str) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--classes", nargs="+", metavar="NAME", help=f"the classes ({default})")
    which.add_argument("--split", metavar="NAME", help="the classes of this split: 60_20, voc_split1, 866_337, or a "
                       "file")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help="the json to write")
    parser.add_argument("--overwrite", action="store_true", help="write again what was made otherwise")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/sample_shots.py`` and ``ovd shots``."""
    options = {key: value for key, value in vars(args).items() if key != "command"}
    if args.command == "sample":
        from pipelines.shots.sampling import sample

        sample(**{**options, "shots_of": dict(map(read_shots_of, args.shots_of))})
    elif args.command == "import":
        from pipelines.shots.importing import import_shots

        import_shots(**options)
    elif args.command == "show":
        from pipelines.shots.showing import show

        show(**options)
    else:
        from pipelines.shots.fine_tuning import write_annotations

        write_annotations(**options)
    return 0


def read_shots_of(text: str) -> tuple[str, int]:
    """``NAME=K`` as a class name and a number."""
    name, equals, number = text.rpartition("=")
    if not equals or not name.strip() or not number.strip().isdigit():
        raise UserError(f'--shots-of {text}: is not NAME=K, such as "zebra=3"')
    return name.strip(), int(number)
