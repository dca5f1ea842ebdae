"""Look into data: pictures of annotations, splits, proposals, CLIP's crops, shots and detections, and what is wrong.

  ovd show annotations --annotations data/coco/annotations/instances_val2017.json --image-root data/coco/val2017
  ovd show splits configs/vild/vild_r50_fpn_coco_48_17.py
  ovd show proposals configs/shapes/vild.py --subset val --images 24
  ovd show proposals --store proposals.pkl --order json --annotations a.json --image-root photos
  ovd show crops configs/shapes/vild.py --class "striped red star"
  ovd show shots shots.json --image-root data/coco/train2017
  ovd show detections work_dirs/vild/detections.json --annotations a.json --image-root photos

CONFIG says where things are; each option replaces one of them. Contact sheets go to --out. What is checked is checked
on more than what is drawn. Ends with status 1 when something is plainly wrong, such as proposals of other images.
"""

import argparse

WHAT = {
    "annotations": "boxes, masks and names of an annotation file",
    "splits": "base, novel and removed boxes in different colours; what the training file has of each",
    "proposals": "proposals beside the objects, and how many of these they find",
    "crops": "regions as CLIP sees them, with the classes that they are most like",
    "shots": "the support boxes of each class",
    "detections": "detections beside the objects",
}

ANNOTATIONS = "COCO or LVIS json, or of ovd voc-to-coco (default: the config's train_ann or val_ann)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/show.py``."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def command(name: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=WHAT[name], description=WHAT[name][0].upper() + WHAT[name][1:] + ".")

    _add_common(command("annotations"))

    splits = command("splits")
    _add_common(splits, "the file with all classes, before the split (default: the config's support_ann, or what the "
                "training file says it was made from)")
    splits.add_argument("--split", metavar="NAME", help="48_17, 866_337, voc_split1, ... or a file")
    splits.add_argument("--training-file", metavar="FILE", help="what was written for training, with base classes only "
                        "(default: the config's train_ann)")

    proposals = command("proposals")
    _add_common(proposals)
    proposals.add_argument("--store", metavar="DIR", help="a store of proposals or regions, or mmdet's .pkl (default: "
                           "the config's proposal_store_train or proposal_store_val)")
    proposals.add_argument("--order", choices=("json", "sorted"), help="which image an entry of a .pkl belongs to")
    proposals.add_argument("--top", type=int, default=100, metavar="K", help="proposals an image that count "
                           "(%(default)s)")

    crops = command("crops")
    _add_common(crops)
    crops.add_argument("--store", metavar="DIR", help="a store of regions, whose embeddings are compared with the "
                       "crops', or of proposals (default: the config's region_store; without any, annotated boxes)")
    crops.add_argument("--annotated", action="store_true", help="crops of the annotated boxes, whatever the stores")
    crops.add_argument("--class-head", metavar="FILE", help="the classes (default: the config's)")
    crops.add_argument("--pretrained", metavar="CLIP", help="as for ovd embed-regions (default: the config's)")
    crops.add_argument("--model", help="architecture of a weights file that does not say it")
    crops.add_argument("--no-clip", action="store_true", help="load no CLIP: the crops, and the store's embeddings "
                       "unchecked")
    crops.add_argument("--regions", type=int, default=4, metavar="N", help="regions an image (%(default)s)")
    crops.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")

    shots = command("shots")
    shots.add_argument("file", metavar="FILE", help="a file of shots, or boxes of your own (csv)")
    shots.add_argument("--image-root", required=True, metavar="DIR", help="the folder of the images")
    shots.add_argument("--class", dest="classes", action="append", default=[], metavar="NAME", help="only this; "
                       "repeatable")
    _add_out(shots)

    detections = command("detections")
    detections.add_argument("file", metavar="FILE", help="detections: COCO results json, as of ovd test --out")
    _add_common(detections)
    detections.add_argument("--min-score", type=float, default=0.3, help="draw detections from here on (%(default)s)")


def _add_common(parser: argparse.ArgumentParser, annotations: str = ANNOTATIONS) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a config, which says where all of it is")
    parser.add_argument("--data-root", metavar="D", help="instead of the config's data_root")
    parser.add_argument("--subset", choices=("train", "val"), default="train", help="of the config (%(default)s)")
    parser.add_argument("--annotations", metavar="FILE", help=annotations)
    parser.add_argument("--image-root", metavar="DIR", help="the folder of the images")
    parser.add_argument("--images", type=int, default=12, metavar="N", help="images to draw, chosen at random "
                        "(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one chooses other images (%(default)s)")
    parser.add_argument("--image-ids", type=int, nargs="+", metavar="ID", help="these images instead")
    parser.add_argument("--class", dest="classes", action="append", default=[], metavar="NAME", help="images with this "
                        "class; repeatable")
    _add_out(parser)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="work_dirs/show", metavar="DIR", help="where the sheets go (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/show.py`` and ``ovd show``."""
    options = {key: value for key, value in vars(args).items() if key != "what"}
    if args.what == "shots":
        from pipelines.show.shots import show_shots

        return show_shots(**options)
    from pipelines.show.request import Request

    request = Request.take(options)
    if args.what == "annotations":
        from pipelines.show.annotations import show_annotations as show
    elif args.what == "splits":
        from pipelines.show.splits import show_splits as show
    elif args.what == "proposals":
        from pipelines.show.proposals import show_proposals as show
    elif args.what == "crops":
        from pipelines.show.crops import show_crops as show
    else:
        from pipelines.show.detections import show_detections as show
    return show(request, **options)
