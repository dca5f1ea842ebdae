"""Convert a checkpoint from one project's key layout to another's.

ResNets and two-stage detectors (see docs/checkpoints.md for the layouts). Prints what became of every tensor, and
refuses to write a file that lacks something unless told. Values are not changed, to the bit.

  ovd convert-checkpoint resnet50_1kpretrained_timm_style.pth spark.pkl --from spark --to detectron2
  ovd convert-checkpoint current_mmdetection_Head.pth soco.safetensors --from soco --to ovd --allow-partial
  ovd convert-checkpoint rpn_r101_fpn_2x_coco_20200131.pth rpn.pth --from mmdet2 --to ovd-rpn
"""

import argparse

LAYOUT_NAMES = ("torchvision", "timm", "spark", "msra", "detectron2", "mmdet2", "mmdet3", "mmdet3-rpn", "soco",
                "detpro", "oadp", "ovd", "ovd-rpn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the stage."""
    parser.add_argument("source", metavar="SRC", help=".pth, .safetensors or .pkl (detectron2's dicts of arrays)")
    parser.add_argument("target", metavar="DST", help=".safetensors, .pth, or .pkl for detectron2")
    for side, dest in (("from", "source_layout"), ("to", "target_layout")):
        parser.add_argument(f"--{side}", dest=dest, required=True, metavar="LAYOUT", help=", ".join(LAYOUT_NAMES))
    parser.add_argument("--model", metavar="CONFIG", help="config that is to load DST: compare names, shapes, images")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes of CONFIG")
    parser.add_argument("--allow-partial", action="store_true", help="write what fits, though not everything does")
    parser.add_argument("--style", choices=("pytorch", "caffe"),
                        help="where SRC's blocks have their stride: the 3x3 (pytorch) or the first 1x1 (caffe)")
    parser.add_argument("--images", choices=("rgb", "bgr"), help="the images that SRC was trained on")
    parser.add_argument("--allow-style-mismatch", action="store_true",
                        help="convert although CONFIG has another style or image format")
    parser.add_argument("--entry", metavar="KEY", help="where in SRC the tensors are, if not the usual (model_ema)")
    parser.add_argument("--report", metavar="FILE", help="write the report as json too, also when refused")
    parser.add_argument("--overwrite", action="store_true", help="replace DST")


def run(args: argparse.Namespace) -> None:
    """Convert as ``args`` ask for."""
    from ovd.engine.conversion.files import Origin, convert_checkpoint
    from ovd.engine.conversion.report import ConversionRefused

    try:
        report = convert_checkpoint(
            args.source, args.target, (args.source_layout, args.target_layout), config=args.model,
            options=args.cfg_options, origin=Origin(args.entry, args.style, args.images),
            allow_partial=args.allow_partial, allow_style_mismatch=args.allow_style_mismatch, report_file=args.report,
            overwrite=args.overwrite)
    except ConversionRefused as error:
        print(error.report)
        raise
    print(report)
