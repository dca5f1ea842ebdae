"""Serve a page on which pictures are searched for words and boxes, region stores for regions, and runs looked into.

    ovd serve                                             the embedded demo model
    ovd serve configs/shapes/vild.py work_dirs/vild/final.pth
    ovd serve --model photos                              any words on any photos, by public weights
    ovd serve --model zebras.safetensors                  a file of ovd export-model
    ovd serve --index data/shapes/regions/train --runs work_dirs/vild work_dirs/vild_text

Needs no internet (photos fetches its weights once), and listens to this machine alone unless --host says otherwise.
Ctrl-C ends it. See docs/web.md.
"""

import argparse
import gc
import ipaddress
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ovd.errors import UserError

PORT = 7860
MOST_PIXELS = 170_000_000  # beyond which Pillow refuses a picture
_UNITS = {"": 1, "B": 1, "K": 1e3, "KB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9, "GB": 1e9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/serve.py``."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="of a detector (default: the embedded demo model)")
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="its weights")
    parser.add_argument("--model", metavar="FILE", help="photos, for any words on any photos (docs/photos_model.md), "
                        "or a model in one file (ovd export-model)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change values of the config")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: a GPU where there is one)")
    tabs = parser.add_argument_group("the other tabs")
    tabs.add_argument("--index", type=Path, metavar="DIR", help="a region store to search; an index of ovd build-index "
                      "beside it is used")
    tabs.add_argument("--index-ann", metavar="FILE", help="the annotation file that names the store's images (default: "
                      "as the project's datasets lay them out)")
    tabs.add_argument("--index-images", metavar="DIR", help="the folder of those images")
    tabs.add_argument("--index-clip", metavar="CLIP", help="the CLIP that made the store")
    tabs.add_argument("--runs", type=Path, nargs="+", default=[], metavar="DIR",
                      help="work directories of runs, or of a recipe, to look into")
    server = parser.add_argument_group("the server")
    server.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s: this machine "
                        "alone)")
    server.add_argument("--port", type=int, default=PORT, help="the first one to try (%(default)s); if it is taken, "
                        "the next free one")
    server.add_argument("--max-upload", default="20MB", metavar="SIZE", help="of a picture's file (%(default)s)")
    server.add_argument("--max-pixels", default="50M", metavar="N", help="of a picture (%(default)s: 50 million)")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/serve.py`` and ``ovd serve``."""
    serve_page(args.config, args.checkpoint, model=args.model, options=args.cfg_options, device=args.device,
               index=args.index, index_ann=args.index_ann, index_images=args.index_images,
               index_clip=args.index_clip, runs=args.runs, host=args.host, port=args.port,
               max_upload=amount(args.max_upload, "--max-upload"), max_pixels=amount(args.max_pixels, "--max-pixels"))


def amount(text: str, option: str) -> int:
    """A number with a unit: ``20MB``, ``50M``, ``1500000``.

    Raises:
        UserError: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", text.strip().upper())
    if found is None or found[2] not in _UNITS or float(found[1]) * _UNITS[found[2]] < 1:
        raise UserError(f"{option} {text}: needs a number such as 20MB, 500K or 1.5M")
    return int(float(found[1]) * _UNITS[found[2]])


def serve_page(config: str | None = None, checkpoint: str | None = None, *, model: str | None = None,
               options: Sequence[str] = (), device: str = "auto", index: Path | None = None,
               index_ann: str | None = None, index_images: str | None = None, index_clip: str | None = None,
               runs: Sequence[Path] = (), host: str = "127.0.0.1", port: int = PORT, max_upload: int = 20_000_000,
               max_pixels: int = 50_000_000) -> None:
    """Load a detector, serve the page, and return after Ctrl-C.

    Args: as the options of the command line; ``max_upload`` in bytes.

    Raises:
        UserError: Wrong or missing input; Gradio is not installed; no free port.
    """
    if model and config:
        raise UserError(f"--model {model} and {config}: give one of them")
    if index is None and (index_ann or index_images or index_clip):
        raise UserError("--index-ann, --index-images and --index-clip belong to a region store: name it with --index")
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port}: needs a number from 1 to 65535")
    if max_pixels > MOST_PIXELS:
        raise UserError(f"--max-pixels {max_pixels:,}: the most is {MOST_PIXELS:,}")
    if find_spec("gradio") is None:
        raise UserError('the page needs Gradio: pip install "ovd[web]"')
    with tempfile.TemporaryDirectory(prefix="ovd-serve-") as uploads:
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False",
                       "HF_HUB_DISABLE_TELEMETRY": "1"}
        if config is None and model in (None, "demo"):  # others may fetch weights once
            os.environ["HF_HUB_OFFLINE"] = "1"
        print(f"loading the model {model or config or 'demo'}", flush=True)  # and the libraries, which take longer
        from ovd.web.server import LOCAL, free_port, make_app, serve

        bound = free_port(host, port)  # before the detector is loaded, which takes longer
        with bound:
            page = _page(config, checkpoint, model, options, device, index, index_ann, index_images, index_clip, runs,
                         uploads, max_upload, max_pixels)
            app = make_app(page, max_upload, uploads, LOCAL | {host} if _is_local(host) else None)
            given = bound.getsockname()[1]
            if given != port:
                print(f"port {port} is taken; this is the next free one")
            if not _is_local(host):
                print(f"warning: --host {host}: whoever reaches this machine can use the page; it has no password",
                      file=sys.stderr)
            print(f"open http://{_shown(host)}:{given} in a browser; Ctrl-C ends the server", flush=True)
            serve(app, bound)
        print("ended", flush=True)
        gc.freeze()  # else the interpreter goes through all objects of the libraries before it ends: seconds


def _page(config, checkpoint, model, options, device, index, index_ann, index_images, index_clip, runs, uploads,
          max_upload, max_pixels):
    from ovd.web.run_shelf import RunShelf

    shelf = RunShelf(runs) if runs else None
    from pipelines.served_index import served_index

    placed = served_index(index, config, index_ann, index_images, index_clip) if index is not None else None
    import ovd
    from ovd.web.desk import Desks, knows_words
    from ovd.web.detect_tab import DetectTab
    from ovd.web.page import build_page
    from ovd.web.runs_tab import RunsTab
    from ovd.web.scenes import example_scenes, knows_scenes
    from ovd.web.search_tab import SearchTab
    from ovd.web.uploads import Limits

    limits = Limits(max_upload, max_pixels)
    detector = ovd.load(model or config or "demo", checkpoint, device=device, options=options)
    finder = None
    if placed is not None:
        from ovd.clip.towers import load_clip
        from ovd.web.finder import Finder

        finder = Finder(placed.store, placed.annotations, placed.images,
                        lambda: load_clip(placed.pretrained, model=placed.model, device=detector.device))
        print(f"search: {len(finder):,} regions of {placed.store}, pictures of {placed.images}")
    by_words = knows_words(detector)
    desks = Desks(detector, method="prototype" if by_words else "codes")  # those without words generate codes
    examples = example_scenes() if knows_scenes(detector.own_names) else []
    return build_page(DetectTab(desks, detector, examples, limits, uploads, by_words),
                      SearchTab(desks, finder, limits, uploads), RunsTab(shelf), desks)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
