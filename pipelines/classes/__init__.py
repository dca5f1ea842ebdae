"""Classes of your own: name them, show example boxes of them, or both, without training.

  tools/classes.py add "dotted red star" --config configs/shapes/vild.py     # its name in the prompt templates
  tools/classes.py add gadget --boxes gadget.csv --images photos             # example boxes alone
  tools/classes.py add gizmo --text "a red knob" --boxes gizmo.json          # other words, and boxes
  tools/classes.py add --from data/shapes/class_heads/vild.safetensors "plain red star"
  tools/classes.py list
  tools/classes.py show gadget
  tools/classes.py plot work_dirs/classes.png
  tools/classes.py export classes.safetensors
  tools/classes.py remove gadget gizmo

They are kept in a registry, a folder of class head files, which `ovd test --class-head` and the like take. The first
addition names a CLIP (--config or --pretrained), later ones go on with it. Adding and removing leaves every logit of
the other classes as it was, to the bit. See docs/classes.md.
"""

import argparse

from ovd.errors import UserError

REGISTRY = "data/classes"
RULES = ("weights", "logits", "max")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/classes.py``."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_add(commands.add_parser("add", help="add classes from words, boxes, both, or a file"))

    commands.add_parser("list", help="a table of the classes")
    show = commands.add_parser("show", help="where a class comes from, and which others are near it")
    show.add_argument("name", metavar="NAME", help="the class")
    show.add_argument("--nearest", type=int, default=5, metavar="N", help="others to list (%(default)s)")
    remove = commands.add_parser("remove", help="remove classes")
    remove.add_argument("names", nargs="+", metavar="NAME", help="the classes")
    export = commands.add_parser("export", help="write one class head file of the classes")
    export.add_argument("out", metavar="FILE", help=".safetensors, or .pth for a vild.pth-like dict (of one vector a "
                        "class)")
    export.add_argument("names", nargs="*", metavar="NAME", help="the classes, in this order (default: all)")
    plot = commands.add_parser("plot", help="a picture of the classes' vectors, projected to two dimensions")
    plot.add_argument("out", metavar="FILE", help="the .png to write")
    for command in commands.choices.values():
        command.add_argument("--registry", default=REGISTRY, metavar="DIR", help="folder of the classes (%(default)s)")


def _add_add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="the classes; with --from or --boxes none means all of the file")
    add("--replace", action="store_true", help="put it in the place of a class of that name")
    words = parser.add_argument_group("words")
    words.add_argument("--text", nargs="*", metavar="WORDS", help="what the class is called, in other words; several "
                       "are averaged; without any, its name. Without --text and --boxes the name is the text")
    words.add_argument("--style", default="vild", help="prompt templates, as in class-embeddings (%(default)s)")
    boxes = parser.add_argument_group("boxes")
    boxes.add_argument("--boxes", metavar="FILE", help="example boxes: a COCO json (such as find-support writes), a "
                       "csv with the columns image,x1,y1,x2,y2[,class], or a file of ovd shots")
    boxes.add_argument("--images", metavar="DIR", help="the folder of their images (default: where the file says below "
                       "the config's data_root; else the file's folder)")
    boxes.add_argument("--boxes-class", metavar="NAME", help="what the class is called in that file (default: NAME)")
    boxes.add_argument("--shots", type=int, metavar="K", help="use the first K boxes of each class (default: all)")
    boxes.add_argument("--method", default="prototype", help="how boxes become a class: prototype, matching, tip, ... "
                       "(%(default)s)")
    boxes.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of the method, such as beta=5.5")
    boxes.add_argument("--detector", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="take this detector's own "
                       "embeddings of the boxes in place of CLIP's")
    both = parser.add_argument_group("words and boxes")
    both.add_argument("--rule", choices=RULES, help="blend their vectors, blend their logits, or take the greater "
                      "logit (weights; with --method tip and tip-f the method's own sum)")
    both.add_argument("--lam", type=float, metavar="X", help="weight of the boxes, 0 to 1 (default: k / (k + kappa) "
                      "for k boxes)")
    both.add_argument("--kappa", type=float, default=2.0, help="see --lam (%(default)s)")
    clip = parser.add_argument_group("CLIP")
    clip.add_argument("--config", metavar="CONFIG", help="take CLIP, crops and data_root from a config")
    clip.add_argument("--data-root", metavar="D", help="in place of the config's data_root")
    clip.add_argument("--pretrained", metavar="CLIP", help="shapes, ViT-B/32, RN50, an open_clip NAME:TAG, or a "
                      "weights file (default: the config's, or that of the registry)")
    clip.add_argument("--model", metavar="NAME", help="architecture of a weights file that does not say it")
    clip.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (auto)")
    clip.add_argument("--allow-untrained", action="store_true", help="permit random weights; the classes are marked")
    clip.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")
    parser.add_argument("--from", dest="source", metavar="FILE", help="take the classes from a class head file, a "
                        "registry or a trained checkpoint (.pth)")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/classes.py`` and ``ovd classes``."""
    options = {key: value for key, value in vars(args).items() if key not in ("command", "cfg_options")}
    if args.command == "add":
        from pipelines.classes.adding import add_classes

        options["settings"] = read_settings(args.settings)
        add_classes(**options, options=args.cfg_options)
    elif args.command == "list":
        from pipelines.classes.showing import list_classes

        list_classes(**options)
    elif args.command == "show":
        from pipelines.classes.showing import show_class

        show_class(**options)
    elif args.command == "plot":
        from pipelines.classes.plotting import plot_classes

        plot_classes(**options)
    elif args.command == "export":
        from pipelines.classes.files import export_classes

        export_classes(**options)
    else:
        from pipelines.classes.files import remove_classes

        remove_classes(**options)
    return 0


def read_settings(items: list[str]) -> dict[str, float | int | str]:
    """``KEY=VALUE`` as settings of a method: whole numbers, numbers, else text."""
    settings: dict[str, float | int | str] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--settings {item}: is not KEY=VALUE, such as beta=5.5")
        settings[key] = text
        for kind in (float, int):
            try:
                settings[key] = kind(text)
            except ValueError:
                continue
    return settings
