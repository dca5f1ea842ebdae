"""Look after stores of proposals and region embeddings: check, describe, join, and exchange with per-image files.

  tools/store.py verify data/shapes/regions/train
  tools/store.py info data/shapes/regions/train --json
  tools/store.py merge data/part1 data/part2 --out data/regions
  tools/store.py export data/shapes/regions/train --layout oadp --out data/oadp
  tools/store.py import data/oadp --layout oadp --annotations data/instances.json --out data/regions

verify ends with status 0 for whole stores, 1 for sound but unfinished ones, 2 for damaged ones. What was interrupted
goes on when it is run again.
"""

import argparse

from ovd.stores.rows import ROWS

LAYOUTS = ("detpro", "oadp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/store.py``."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    verify = commands.add_parser("verify", help="read every shard and compare checksums")
    verify.add_argument("stores", nargs="+", metavar="DIR", help="folders of stores")
    verify.add_argument("--delete-damaged", action="store_true", help="delete damaged shards, and the manifest, so "
                        "that the next run of the stage that made the store makes only those again")

    info = commands.add_parser("info", help="what a store holds and how it was made")
    info.add_argument("store", metavar="DIR", help="folder of the store")
    info.add_argument("--json", action="store_true", help="all of it, as json")

    merge = commands.add_parser("merge", help="one store of several that hold different images")
    merge.add_argument("parts", nargs="+", metavar="DIR", help="folders of the stores")
    merge.add_argument("--out", required=True, metavar="DIR", help="the store to write")
    merge.add_argument("--images-per-shard", type=int, metavar="N", help="(default: as in the first part)")
    merge.add_argument("--rows", choices=ROWS, help="how to keep embeddings (default: as the parts do)")
    merge.add_argument("--overwrite", action="store_true", help="build again what is there")

    export = commands.add_parser("export", help="a .pth file for each image, as DetPro or OADP read them")
    export.add_argument("store", metavar="DIR", help="folder of the region store")
    export.add_argument("--layout", required=True, choices=LAYOUTS, help="detpro: float32 [n, D], boxes in one "
                        "proposals.pkl beside the files; oadp: a dict of float16 embeddings, bboxes and objectness")
    export.add_argument("--out", required=True, metavar="FOLDER", help="where the files go")
    export.add_argument("--overwrite", action="store_true", help="write files again that are there")

    import_ = commands.add_parser("import", help="a region store of such files")
    import_.add_argument("folder", metavar="FOLDER", help="where the files are")
    import_.add_argument("--layout", required=True, choices=LAYOUTS, help="what is in them, see export")
    import_.add_argument("--annotations", required=True, metavar="FILE", help="annotation file of these images")
    import_.add_argument("--out", required=True, metavar="DIR", help="the store to write")
    import_.add_argument("--proposals", metavar="STORE_OR_PKL", help="the boxes, for --layout detpro, which has none: "
                         "a proposal store, or an mmdet file")
    import_.add_argument("--order", choices=("json", "sorted"), help="which image an entry of the mmdet file belongs "
                         "to: images in the order of the annotation file, or by ascending id")
    import_.add_argument("--images-per-shard", type=int, default=512, metavar="N", help="(default: 512)")
    import_.add_argument("--rows", choices=ROWS, default="float16", help="how to keep embeddings (default: float16)")
    import_.add_argument("--overwrite", action="store_true", help="build again what is there")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/store.py`` and ``ovd store``; returns the exit status."""
    options = {key: value for key, value in vars(args).items() if key != "command"}
    if args.command in ("verify", "info"):
        from pipelines.store.checking import info, verify

        return verify(args.stores, args.delete_damaged) if args.command == "verify" else info(args.store, args.json)
    if args.command == "merge":
        from pipelines.store.merging import merge

        merge(**options)
    elif args.command == "export":
        from pipelines.store.exporting import export

        export(**options)
    else:
        from pipelines.store.importing import import_files

        import_files(**options)
    return 0
