"""Command line: ``ovd <stage> ...``, and the entry point that the scripts in ``tools/`` share.

A stage is a module in this package with ``add_arguments(parser)`` and ``run(args)``. Modules are imported only when
their command is asked for, so ``ovd --help`` does not load torch.
"""

import argparse
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TextIO

from ovd import __version__
from ovd.errors import UserError, nearest
from pipelines.running.signals import handled

# subcommand -> (module in this package, what it does)
STAGES = {
    "doctor": ("doctor", "look at the installation, the machine and the data, and say what is missing"),
    "shapes": ("shapes", "render the embedded benchmark"),
    "shapes-clip": ("shapes_clip", "train the small CLIP of the embedded benchmark"),
    "voc-to-coco": ("voc_to_coco", "convert PASCAL VOC's XML annotations into a COCO-style json"),
    "build-zsl": ("splits", "write base-only and generalised annotation files"),
    "shots": ("shots", "choose and import the support boxes (shots) of classes"),
    "proposals": ("proposals", "extract, import and export region proposals"),
    "class-embeddings": ("class_embeddings", "CLIP text embeddings of class names"),
    "embed-regions": ("region_embeddings", "CLIP image embeddings of proposals"),
    "build-index": ("index", "index a region store for search"),
    "search": ("search", "find regions by words or by an example"),
    "learn-prompts": ("prompt_learning", "learn prompts for the class names (DetPro)"),
    "head-surgery": ("head_surgery", "change the classes of a trained detector, by name"),
    "train": ("train", "train a detector or a proposal network"),
    "test": ("test", "evaluate a checkpoint"),
    "detect": ("detect", "find things in your own pictures, by words or example boxes"),
    "evaluate": ("evaluate", "evaluate a file of detections"),
    "class-codes": ("class_codes", "make classes from a few boxes with a trained detector"),
    "fewshot-eval": ("fewshot_eval", "evaluate classes that are added by name, by boxes, or by both"),
    "convert-checkpoint": ("checkpoint_conversion", "convert a checkpoint between key layouts"),
    "export-model": ("model_export", "write a trained detector as one file"),
    "find-support": ("support", "suggest example boxes of a class"),
    "classes": ("classes", "add, list, show and remove classes of your own"),
    "audit": ("audit", "look for wrong labels and duplicates in annotations"),
    "clip-on-crops": ("clip_on_crops", "evaluate CLIP on cropped proposals, without training"),
    "fewshot-classify": ("fewshot_classify", "few-shot classification over episodes, on cached embeddings"),
    "zero-shot": ("zero_shot", "accuracy of a CLIP on ground-truth crops"),
    "show": ("show", "look into data: annotations, splits, proposals, crops, shots, detections"),
    "study": ("study", "write the results of a recipe that compares methods over seeds"),
    "store": ("store", "check, describe, merge, export and import stores"),
    "fewshot-study": ("fewshot_study", "write the results of a recipe that compares ways to add classes"),
    "report": ("report", "write the report page of runs, or of a recipe"),
    "serve": ("serve", "serve a page: pictures, words and boxes in a browser"),
    "run": ("recipe", "run a recipe: a chain of stages"),
}


def run_stage(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Parse ``argv`` for the stage ``name`` and run it.

    Returns:
        The exit status: 2 after a user's mistake, 128 and the signal's number when it was told to stop, or when nobody
        reads its output any more (``ovd ... | head``).
    """
    return _until_unread(lambda: _run_stage(name, argv, prog))


def _run_stage(name: str, argv: Sequence[str] | None, prog: str | None) -> int:
    module_name, description = STAGES[name]
    module = importlib.import_module(f"pipelines.{module_name}")
    parser = argparse.ArgumentParser(prog=prog, description=module.__doc__ or description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        with _stop_signals():
            return module.run(args) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 128 + (stopped.args or (signal.SIGINT,))[0]


def _stop_signals() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP end a stage as Ctrl-C does, so that what it is writing is removed.

    Not in torchrun's processes, which may wait for each other where no Python runs; nor where somebody answers them.
    """
    numbers = () if "TORCHELASTIC_RUN_ID" in os.environ else (signal.SIGTERM, signal.SIGHUP)
    return handled([number for number in numbers if signal.getsignal(number) == signal.SIG_DFL], _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def _until_unread(command: Callable[[], int]) -> int:
    """Run a command that ends quietly, as other programs do, when the reader of its output has gone."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # at the interpreter's end nobody could catch it
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:
            raise  # another pipe, of the command's own
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:
            os.dup2(nowhere, stream.fileno())  # for what is still in its buffer
        return 128 + signal.SIGPIPE


def _is_unread(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False  # no file of the system
    return any(event & select.POLLERR for _, event in poll.poll(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``ovd`` command."""
    return _until_unread(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, STAGES))
        print("usage: ovd STAGE [options]\n\nstages, in the order in which they run (ovd STAGE --help for each):")
        for name, (_, description) in STAGES.items():
            print(f"  {name:<{width}}  {description}")
        return 0
    if argv[0] == "--version":
        print(f"ovd {__version__}")
        return 0
    if argv[0] not in STAGES:
        print(f"error: no stage named {argv[0]!r}{nearest(argv[0], STAGES)}", file=sys.stderr)
        return 2
    return run_stage(argv[0], argv[1:], prog=f"ovd {argv[0]}")


if __name__ == "__main__":
    sys.exit(main())
