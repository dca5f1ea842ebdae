"""Serve the page: pictures, words and boxes in a browser.

    ovd serve                                             the embedded demo model
    ovd serve configs/shapes/vild.py work_dirs/vild/final.pth
    ovd serve --model zebras.safetensors                  a file of ovd export-model
    ovd serve --index data/shapes/regions/train --runs work_dirs/vild work_dirs/vild_text

Needs no internet. See docs/web.md.
"""

import argparse
import os
import tempfile

from ovd.errors import UserError

PORT = 7860


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/serve.py``."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="of a detector (default: the embedded demo model)")
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="its weights")
    parser.add_argument("--model", metavar="FILE", help="a model in one file instead (ovd export-model)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: a GPU where there is one)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help="the first one to try (%(default)s)")
    parser.add_argument("--max-upload", default="20MB", metavar="SIZE", help="of a picture's file (%(default)s)")
    parser.add_argument("--max-pixels", default="50M", metavar="N", help="of a picture (%(default)s: 50 million)")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/serve.py`` and ``ovd serve``."""
    with tempfile.TemporaryDirectory(prefix="ovd-serve-") as uploads:
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        import ovd
        from ovd.web.desk import Desks
        from ovd.web.detect_tab import DetectTab
        from ovd.web.page import build_page
        from ovd.web.scenes import example_scenes, knows_scenes
        from ovd.web.server import free_port, make_app, serve
        from ovd.web.uploads import Limits
        limits = Limits()
        detector = ovd.load(args.model or args.config or "demo", args.checkpoint, device=args.device)
        desks = Desks(detector)
        examples = example_scenes() if knows_scenes(detector.own_names) else []
        page = build_page(DetectTab(desks, detector, examples, limits, uploads), desks)
        app = make_app(page, limits.file_bytes)
        bound = free_port(args.host, args.port)
        print(f"http://{args.host}:{bound.getsockname()[1]}", flush=True)
        serve(app, bound)
