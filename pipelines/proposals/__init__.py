"""Region proposals: run a trained RPN over every image of a subset, into a store keyed by image id.

  tools/extract_proposals.py configs/shapes/rpn.py work_dirs/rpn/final.pth
  tools/extract_proposals.py CONFIG --subset train --import-pkl rpn_train.pkl --order json
  tools/extract_proposals.py CONFIG --subset train --export-pkl rpn_train.pkl --order json
  tools/extract_proposals.py CONFIG --subset train --from-annotations --out data/shapes/proposals/ground_truth

CKPT is an RPN or a two-stage detector, of which the RPN is used. The config says where things are, relative to its
data_root:

    train_ann, train_prefix, proposal_store_train                                    (and the same with val)
    proposals = dict(max_per_image=300, batch_size=2, images_per_shard=512)          (all have defaults)

All images of the annotation file are used, annotated or not. An interrupted run goes on where it was. At the end it
prints how many of the annotated objects the proposals find, base and novel classes apart.
"""

import argparse

from ovd.errors import UserError
from pipelines.parts import HELP

SUBSETS = ("train", "val")
EXCHANGE = ("import_pkl", "export_pkl", "from_annotations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/extract_proposals.py``."""
    add = parser.add_argument
    add("config", help="the config file of the proposal network, or of a two-stage detector")
    add("checkpoint", nargs="?", metavar="CKPT", help="its weights")
    add("--subset", nargs="+", choices=SUBSETS, help="images to use (default: train val)")
    add("--data-root", help="use the dataset in this folder instead of the config's data_root")
    add("--out", help="the store, for one subset (default: the config's proposal_store_...)")
    add("--max-per-image", type=int, metavar="N", help="boxes to keep (default: proposals.max_per_image, else 300)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to compute (default: a GPU where there is one)")
    add("--batch-size", type=int, metavar="N", help="images in a forward pass (default: proposals.batch_size, else 16 "
        "on a GPU and 2 on a processor); images of different sizes never share a batch")
    add("--processes", type=int, metavar="N", help="processes that each do shards of their own (default: 1 on a GPU, "
        "one a core on a processor, at most 8 and one a shard)")
    add("--threads", type=int, metavar="N",
        help="threads of each process's arithmetic (default: the cores divided by the processes)")
    add("--workers", type=int, metavar="N", help="threads of each process that read images ahead (default: 8 on a GPU, "
        "0 on a processor)")
    add("--launcher", choices=("none", "pytorch"), default="none",
        help="pytorch: one of the processes that torchrun started (tools/dist_extract_proposals.sh does that)")
    add("--part", metavar="I/N", help=HELP)
    add("--on-error", choices=("stop", "skip"), default="stop", help="an image that cannot be read: stop, or store it "
        "without proposals and say so in the manifest (default: stop)")
    add("--overwrite", action="store_true", help="build again what is there")
    add("--recall-images", type=int, default=5000, metavar="N",
        help="measure recall on at most N images (default: 5000; 0: do not measure)")
    add("--import-pkl", metavar="FILE", help="fill the store from an mmdet file instead of running a network: a list "
        "with an array [n, 5] (x1 y1 x2 y2 score) for each image")
    add("--export-pkl", metavar="FILE", help="write the store as such a file instead")
    add("--from-annotations", action="store_true", help="fill the store (--out) with the annotated boxes instead")
    add("--order", choices=("json", "sorted"), help="which image an entry of that file belongs to: images in the order "
        "of the annotation file, or by ascending id")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="change values of the config, such as proposals.max_per_image=1000")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/extract_proposals.py`` and ``ovd proposals``."""
    from ovd.engine.launch import quiet

    quiet()
    options = dict(vars(args))
    where = {"options": options.pop("cfg_options"), "data_root": options.pop("data_root"), "out": options.pop("out")}
    exchange = {name: file for name in EXCHANGE if (file := options.pop(name))}
    config, checkpoint, subsets, order = (options.pop(key) for key in ("config", "checkpoint", "subset", "order"))
    if not exchange:
        if order:
            raise UserError("--order belongs to --import-pkl and --export-pkl; stores are keyed by image id")
        if not checkpoint:
            raise UserError("give the checkpoint of a trained proposal network, after the config")
        from pipelines.proposals.extraction import extract_proposals

        extract_proposals(config, checkpoint, subsets=subsets or SUBSETS, **where, **options)
        return 0
    _check_exchange(exchange, checkpoint, subsets, order)
    if options["part"]:
        raise UserError(f"--part {options['part']}: belongs to running a network; this takes one job")
    if "from_annotations" in exchange:
        if not where["out"]:
            raise UserError("--from-annotations: say where the store of annotated boxes goes: --out DIR")
        from pipelines.proposals.annotated import annotated_proposals

        annotated_proposals(config, subsets[0], overwrite=options["overwrite"], **where)
        return 0
    from pipelines.proposals.exchange import export_proposals, import_proposals

    if "export_pkl" in exchange:
        export_proposals(config, subsets[0], exchange["export_pkl"], order, **where)
    else:
        import_proposals(config, subsets[0], exchange["import_pkl"], order, **where,
                         **{key: options[key] for key in ("max_per_image", "overwrite", "recall_images")})
    return 0


def _check_exchange(exchange: dict, checkpoint: str | None, subsets: list[str] | None, order: str | None) -> None:
    if len(exchange) > 1:
        raise UserError(" and ".join(f"--{name.replace('_', '-')}" for name in exchange) + ": one at a time")
    flag = "--" + next(iter(exchange)).replace("_", "-")
    if checkpoint:
        raise UserError(f"{flag}: runs no network; leave out the checkpoint {checkpoint}")
    if len(subsets or ()) != 1:
        raise UserError(f"{flag}: say which images are meant: --subset train, or --subset val")
    if "from_annotations" in exchange:
        if order:
            raise UserError("--order belongs to --import-pkl and --export-pkl; stores are keyed by image id")
        return
    if order is None:
        raise UserError(f"{flag}: say which image an entry belongs to: --order json (images as in the annotation file, "
                        "as mmdet's test.py writes them) or --order sorted (by ascending id, as torchvision has them)")
