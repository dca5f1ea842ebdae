"""Learn DetPro's prompts: a context of a few vectors for all classes, from base annotations; write a class head.

  tools/learn_prompts.py configs/shapes/detpro.py               # learns the contexts, writes the config's class_head
  tools/learn_prompts.py --apply class_heads/detpro --dataset coco --pretrained "ViT-B/32" --out coco.safetensors

The config says where things are, relative to its data_root: train_ann, split, region_store, class_head (the file to
write), regions.pretrained, and how to learn:

    prompts = dict(ground_truth_store="regions/ground_truth", context=8, position="end", mode="soft", epochs=6, ...)

The store of ground truth is made by two commands before:

    ovd proposals CONFIG --from-annotations --subset train --out DATA/proposals/ground_truth
    ovd embed-regions CONFIG --proposals DATA/proposals/ground_truth --out DATA/regions/ground_truth \\
        --cfg-options regions.top_k=none

A model is learned for each range of IoU; a finished one is kept in the contexts' folder, so an interrupted run goes on
with the next. The head has all classes of the split, base and novel. --apply gives contexts to other class names.
"""

import argparse

from ovd.errors import UserError

LEARNING = ("context", "position", "mode", "ranges", "epochs", "batch_size", "lr", "momentum", "temperature", "holdout",
            "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/learn_prompts.py``."""
    parser.add_argument("config", nargs="?", help="the config file")
    files = parser.add_argument_group("files")
    files.add_argument("--data-root", metavar="D", help="use the dataset in this folder instead of the config's")
    files.add_argument("--out", metavar="FILE", help="class head to write (default: the config's class_head)")
    files.add_argument("--contexts", metavar="DIR", help="folder for the pairs and the learned contexts (default: the "
                       "class head's path without its suffix)")
    files.add_argument("--regions", metavar="DIR", help="region store of proposals (default: the config's)")
    files.add_argument("--ground-truth", metavar="DIR", help="region store of the annotated boxes (default: the "
                       "config's prompts.ground_truth_store)")
    files.add_argument("--overwrite", action="store_true", help="learn again what is there")
    how = parser.add_argument_group("how to learn (default: the config's prompts section)")
    how.add_argument("--context", type=int, metavar="N", help="vectors in the context")
    how.add_argument("--position", help="where the class name stands: end, middle or front")
    how.add_argument("--mode", help="background loss: soft, hinge, mean, meanbg, max, learn, fg_only")
    how.add_argument("--ranges", nargs="+", type=_range, metavar="A-B", help="IoU of each model's positives")
    how.add_argument("--epochs", type=int, metavar="N")
    how.add_argument("--batch-size", type=int, metavar="N")
    how.add_argument("--lr", type=float)
    how.add_argument("--momentum", type=float)
    how.add_argument("--temperature", type=float)
    how.add_argument("--holdout", type=float, metavar="PART", help="part of the images to keep from training, to "
                     "measure accuracy on their base objects")
    how.add_argument("--seed", type=int)
    clip = parser.add_argument_group("CLIP")
    clip.add_argument("--pretrained", metavar="CLIP", help="as for ovd class-embeddings (default: the config's "
                      "regions.pretrained)")
    clip.add_argument("--model", metavar="NAME", help="architecture of a weights file that does not say it")
    clip.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                      help="where to compute (default: a GPU where there is one)")
    clip.add_argument("--allow-untrained", action="store_true", help="permit random weights; the files are marked")
    other = parser.add_argument_group("other vocabularies")
    other.add_argument("--apply", nargs="+", metavar="CONTEXT", help="learn nothing: make a head of these contexts "
                       "(files, folders of them, or published *_prompt.pth)")
    other.add_argument("--names", metavar="FILE", help="class names: .txt with one a line, or a .json list")
    other.add_argument("--dataset", metavar="D", help="coco, lvis_v1, voc, a split (48_17, 866_337, ...) or its file")
    other.add_argument("--split", dest="dataset", metavar="D", help=argparse.SUPPRESS)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change values of the config, such as prompts.negatives_kept=1")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/learn_prompts.py`` and ``ovd learn-prompts``."""
    clip = {"pretrained": args.pretrained, "model": args.model, "device": args.device,
            "allow_untrained": args.allow_untrained}
    if args.apply:
        from pipelines.prompt_learning.heads import apply_contexts

        if not args.out:
            raise UserError("--apply: say which class head to write: --out FILE")
        if not (args.names or args.dataset):
            raise UserError("--apply: say which classes: --names FILE, or --dataset D")
        if args.config and not args.pretrained:
            from ovd.engine.config import load_config

            regions = load_config(args.config, args.cfg_options, args.data_root).get("regions") or {}
            clip |= {"pretrained": regions.get("pretrained"), "model": args.model or regions.get("model")}
        apply_contexts(args.apply, args.names, args.dataset, args.out, data_root=args.data_root,
                       position=args.position, overwrite=args.overwrite, **clip)
        return 0
    if not args.config:
        raise UserError("give a config to learn with, or contexts to --apply")
    if args.names or args.dataset:
        raise UserError("--names and --dataset belong to --apply; the classes to learn with are the config's split")
    from pipelines.prompt_learning.learning import learn_prompts

    learn_prompts(args.config, options=args.cfg_options, data_root=args.data_root, out=args.out,
                  contexts=args.contexts, regions=args.regions, ground_truth=args.ground_truth,
                  overwrite=args.overwrite, learning={key: getattr(args, key) for key in LEARNING}, **clip)
    return 0


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 0.5-0.6") from None
