"""Run the benchmarks of a suite one after the other, show their figures as they come, and collect them.

Every benchmark is a script that prints its figures as JSON lines (see figures.py), and runs as a process of its own.
With --json the lines are kept in one file, which is there whole after each figure. --quick runs everything at sizes
that say whether it works, not how fast it is. Ends with status 1 when a script failed, and says which. Ctrl-C ends the
script that runs, and keeps the figures so far.

    python benchmarks/run.py [--suite offline] [--json work_dirs/benchmarks.jsonl] [--quick]
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from figures import parsed

from ovd.stores.atomic import write_bytes

FOLDER = Path(__file__).resolve().parent
PATIENCE = 5  # seconds that an interrupted script has to tidy up


@dataclass(frozen=True)
class Benchmark:
    """A script and how it is run.

    Attributes:
        script: Its file's name, without the ending.
        suite: Where it belongs.
        arguments: Of a usual run.
        on_gpu: In place of ``arguments``, where there is a GPU.
        quick: With --quick.
    """

    script: str
    suite: str
    arguments: tuple[str, ...] = ()
    on_gpu: tuple[str, ...] | None = None
    quick: tuple[str, ...] = ()


def words(line: str) -> tuple[str, ...]:
    """Arguments as one would type them."""
    return tuple(line.split())


TABLE = (
    Benchmark("split_building", "offline", quick=words("--megabytes 2")),
    Benchmark("crop_resize", "offline", quick=words("--device cpu --boxes 4 --side 32 --rounds 1")),
    Benchmark("region_stage", "offline",
              on_gpu=words("--device cuda --images 512 --boxes 300 --precision fp16 --compile"),
              quick=words("--device cpu --pretrained shapes --images 2 --boxes 3 --rounds 1")),
    Benchmark("store_reads", "offline", quick=words("--images 32 --boxes 20 --dim 32 --rounds 1")),
    Benchmark("text_embeddings", "offline", on_gpu=words("--classes 1203 --sample 12 --device cuda"),
              quick=words("--device cpu --pretrained shapes --classes 4 --sample 2")),
    Benchmark("index_search", "offline", quick=words("--rows 3000 --dim 16 --queries 16 --rounds 1")),
    Benchmark("prompt_memory", "offline", quick=words("--pairs 1000 --dim 32")),
    Benchmark("vild_step", "train", words("--device cpu --size 256 426 --images 1 --rounds 5 --flops 800 1333"),
              words("--device cuda"),
              words("--device cpu --size 64 96 --images 1 --rounds 1 --rois 4 --regions 2")),
    Benchmark("lvis_evaluation", "eval", quick=words("--images 20 --detections 20")),
    Benchmark("vocabulary_size", "eval", words("--device cpu --size 400 666 --rounds 5"), words("--device cuda"),
              words("--device cpu --size 64 96 --rounds 1 --proposals 20")),
    Benchmark("class_adding", "eval",
              quick=words("--device cpu --pretrained shapes --classes 3 --sample 2 --boxes 2 --rounds 1")),
    Benchmark("episodes", "eval", quick=words("--episodes 20 --loop-episodes 10 --dims 32")),
    Benchmark("startup", "interface", quick=words("--rounds 1")),
    Benchmark("api", "interface", quick=words("--device cpu --clip shapes --boxes 2 --rounds 1 --scenes 20")),
    Benchmark("detect_folder", "interface", quick=words("--images 3 --size 96 --rounds 1 --device cpu")),
    Benchmark("scaling", "scaling",
              quick=words("--images 10 --processes 1 --scratch work_dirs/quick_scaling --fresh")),
    Benchmark("audit_faults", "quality"),
    Benchmark("support_retrieval", "quality"),
)
SUITES = {  # by name: the suites of the table that are run
    "offline": ("offline",), "train": ("train",), "eval": ("eval",), "interface": ("interface",),
    "all": ("offline", "train", "eval", "interface"),
    "scaling": ("scaling",),  # takes long
    "quality": ("quality",),  # not of speed, and needs the embedded benchmark (make demo)
}


def left_out(folder: Path = FOLDER, table: Sequence[Benchmark] = TABLE) -> list[str]:
    """Scripts of the folder that no suite has: files with a ``main`` but for this one."""
    scripts = {path.stem for path in folder.glob("*.py") if re.search(r"^def main\(", path.read_text(), re.M)}
    return sorted(scripts - {benchmark.script for benchmark in table} - {Path(__file__).stem})


def run_script(path: Path, arguments: Sequence[str], keep: Callable[[str], None]) -> str:
    """Run a benchmark, show its figures, give their lines to ``keep``; returns what went wrong (empty: nothing)."""
    if not path.is_file():
        return "no such script"
    figures, wrong = 0, ""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen([sys.executable, str(path), *arguments], stdout=subprocess.PIPE, stderr=errors,
                                   text=True, errors="replace", cwd=FOLDER.parent, start_new_session=True)
        try:
            for line in process.stdout:
                if not line.startswith("{"):
                    print(f"    {line.rstrip()}", flush=True)
                    continue
                try:
                    show(parsed(line))
                except ValueError as error:
                    wrong = wrong or f"not a figure: {error}"
                else:
                    keep(line.strip())
                    figures += 1
            process.wait()
        except BaseException:
            _end(process)
            raise
        errors.seek(0)
        last_words = errors.read().strip().splitlines()[-15:]
    if process.returncode:
        print("\n".join(f"    {line}" for line in last_words), file=sys.stderr)
        wrong = f"status {process.returncode}: {last_words[-1] if last_words else 'said nothing'}"
    return wrong or ("" if figures else "no figures")


def _end(process: subprocess.Popen) -> None:
    """Stop a script and the processes that it started: they may tidy up, and are killed if that takes long."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):  # none of them is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def show(figure: dict) -> None:
    """A figure as a row of a table."""
    value, peer = (f"{figure[key]:,} {figure['unit']}" for key in ("value", "peer_value"))
    print(f"  {figure['ratio']:>9,} x  {value:>16}  {peer:>16}  {figure['name']} | {figure['peer']}", flush=True)


def main(argv: Sequence[str] | None = None, folder: Path = FOLDER, table: Sequence[Benchmark] = TABLE) -> int:
    """Run a suite; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="all", help="(%(default)s: all but scaling and quality)")
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", help="these scripts of the suite")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures there, a JSON line each")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does everything run?")
    args = parser.parse_args(argv)
    chosen = [benchmark for benchmark in table if benchmark.suite in SUITES[args.suite]]
    if unknown := set(args.only or ()) - {benchmark.script for benchmark in chosen}:
        parser.error(f"no {', '.join(sorted(unknown))} among {', '.join(benchmark.script for benchmark in chosen)}")
    chosen = [benchmark for benchmark in chosen if not args.only or benchmark.script in args.only]
    forgotten = [] if args.only else left_out(folder, table)
    failed = dict.fromkeys(forgotten, "is in no suite: add it to the table of run.py")
    kept: list[str] = []

    def keep(*lines: str) -> None:
        kept.extend(lines)
        if args.json:
            write_bytes(args.json, "".join(f"{line}\n" for line in kept).encode())

    keep()  # so that a file that cannot be written is noticed now
    on_gpu = _gpu()
    print(f"  {'ratio':>11}  {'ours':>16}  {'peer':>16}  (a ratio above 1: ours is better)")
    for number, benchmark in enumerate(chosen, start=1):
        arguments = benchmark.arguments if not on_gpu or benchmark.on_gpu is None else benchmark.on_gpu
        arguments = benchmark.quick if args.quick else arguments
        print(f"[{number}/{len(chosen)}] {' '.join([benchmark.script, *arguments])}", flush=True)
        start = time.perf_counter()
        try:
            wrong = run_script(folder / f"{benchmark.script}.py", arguments, keep)
        except KeyboardInterrupt:
            kept_in = f" in {args.json}" if args.json and kept else ""
            print(f"interrupted in {benchmark.script}, which was ended; {len(kept)} figures so far{kept_in}",
                  file=sys.stderr)
            return 130
        print(f"    {'failed, ' + wrong if wrong else 'done'} ({time.perf_counter() - start:.0f} s)", flush=True)
        if wrong:
            failed[benchmark.script] = wrong
    print(f"{len(kept)} figures of {len(chosen)} scripts" + (f" in {args.json}" if args.json else ""))
    for script, wrong in failed.items():
        print(f"FAILED {script}: {wrong}", file=sys.stderr)
    return 1 if failed else 0


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
