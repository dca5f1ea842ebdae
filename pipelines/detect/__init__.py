"""Find things in your own pictures: boxes, masks and names for a folder, a pattern, a video or a stream of images.

    ovd detect photos --words "zebra, traffic cone" --model FILE.safetensors
    ovd detect photos --words zebra "traffic cone" --model CONFIG --checkpoint CHECKPOINT --out work_dirs/found
    ovd detect photos --boxes boxes.csv --images examples --model FILE.safetensors
    ovd detect photos --words "zebra, traffic cone" --model photos
    ovd detect clip.mp4 --every 5
    ffmpeg -i rtsp://camera -f image2pipe -c:v mjpeg - | ovd detect - --batch-size 1

Without --model it is the demo's, which knows shapes; without words it looks for the model's own classes. Writes below
--out: detections.jsonl (a line an image, as soon as it is looked at), detections.json (all of them, as COCO has it) and
pictures/ (of a video, a video). An interrupted run goes on where it was; an image that changed is looked at again.
Ctrl-C ends a stream, with results of what came on it; with --batch-size 1 each image's are there at once.
"""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from ovd.errors import UserError
from ovd.shipped import located

OUT = "detections"
HINT = ("the demo model knows drawn shapes alone; for photos: --model photos, which takes any words "
        "(docs/photos_model.md)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/detect.py``."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder (with all below it), pattern in "
                        "quotes, video, or - for encoded images on the standard input")
    what = parser.add_argument_group("what to find (default: the model's own classes)")
    what.add_argument("--words", nargs="+", metavar="WORDS", help="class names, separated by commas")
    what.add_argument("--words-file", metavar="FILE", help="class names, a line each")
    what.add_argument("--vocabulary", choices=("coco", "lvis", "voc", "objects365"), help="a dataset's class names")
    what.add_argument("--class-head", metavar="PATH", help="a class head file, or the folder of a registry "
                      "(ovd classes)")
    what.add_argument("--no-rivals", action="store_true", help="for words that mean the same as classes that the model "
                      "was trained on: these do not compete with yours (else they do, without being reported)")
    what.add_argument("--boxes", metavar="FILE", help="example boxes of classes, a csv or COCO json: each becomes a "
                      "class; by its boxes alone, or by both where it is among the words")
    what.add_argument("--images", metavar="DIR", help="the folder of the examples' images (default: that of the file)")
    model = parser.add_argument_group("the detector")
    model.add_argument("--model", default="demo", metavar="MODEL", help="demo, which knows shapes; photos, any "
                       "words on any photos (docs/photos_model.md); a file of ovd export-model; or a config with "
                       "--checkpoint (%(default)s)")
    model.add_argument("--checkpoint", metavar="FILE", help="of the config's model")
    model.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")
    model.add_argument("--data-root", help="use the dataset in this folder instead of the config's data_root")
    model.add_argument("--device", default="auto", metavar="DEVICE", help="auto (a GPU where there is one), cpu, cuda, "
                       "cuda:1")
    model.add_argument("--batch-size", type=int, default=8, metavar="N", help="images that go through the network "
                       "together (%(default)s)")
    model.add_argument("--threads", type=int, metavar="N", help="that decode and draw beside it (default: 2, more "
                       "beside a GPU)")
    kept = parser.add_argument_group("results")
    kept.add_argument("--out", default=OUT, metavar="DIR", help="where they go (%(default)s)")
    kept.add_argument("--threshold", type=float, default=0.3, metavar="T", help="lowest score, 0 to 1 (%(default)s)")
    kept.add_argument("--max-per-image", type=int, default=100, metavar="N", help="(%(default)s)")
    kept.add_argument("--no-masks", action="store_true", help="boxes alone, which is faster")
    kept.add_argument("--no-pictures", action="store_true", help="json alone")
    kept.add_argument("--every", type=int, default=1, metavar="N", help="each Nth frame of videos and streams")
    kept.add_argument("--overwrite", action="store_true", help="begin anew where --out has results of other settings")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/detect.py`` and ``ovd detect``."""
    from ovd.data.frames import Frames

    if args.batch_size < 1 or args.max_per_image < 1 or (args.threads is not None and args.threads < 1):
        raise UserError("--batch-size, --max-per-image and --threads: give 1 or more")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g}: scores go from 0 to 1")
    frames = Frames(args.inputs, args.every, sys.stdin.buffer, but=Path(args.out, "pictures"))
    from pipelines.detect.classes import Wanted
    from pipelines.detect.results import Results

    wanted = Wanted.of(args.words, args.words_file, args.vocabulary, args.class_head, args.boxes, args.images)
    settings = {"model": _model_settings(args.model, args.checkpoint, args.cfg_options), **wanted.settings(),
                "rivals": not args.no_rivals, "folder of pictures": frames.folders,
                "threshold": args.threshold, "max-per-image": args.max_per_image, "masks": not args.no_masks,
                "pictures": not args.no_pictures, "every": args.every}
    with closing(Results(Path(args.out), settings, args.overwrite)) as results:
        if frames.has_stream and len(results):
            raise UserError(f"{args.out}: has results already, and a stream cannot be gone on with; pass --overwrite, "
                            "or another --out")
        print(f"loading the model {args.model}", flush=True)  # before the imports, which take most of the time
        from ovd.apis.loading import load

        detector = load(args.model, args.checkpoint, device=args.device, options=args.cfg_options,
                        data_root=args.data_root)
        wanted.give_to(detector, None if args.no_rivals else "own")
        from pipelines.detect.work import detect_frames

        return detect_frames(detector, frames, results, threshold=args.threshold, masks=not args.no_masks,
                             pictures=not args.no_pictures, batch_size=args.batch_size,
                             max_per_image=args.max_per_image, threads=args.threads,
                             hint=HINT if args.model == "demo" else None)


def _model_settings(model: str, checkpoint: str | None, options: list[str]) -> dict[str, object]:
    from ovd.stores.manifest import fingerprint

    files = [located(path) for path in (model, checkpoint) if path is not None and path not in ("demo", "photos")]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such model file; give demo, photos, a .safetensors of ovd export-model, or a "
                            "config and its --checkpoint")
    return {"name": model, "files": [fingerprint(path) for path in files], "options": list(options)}
