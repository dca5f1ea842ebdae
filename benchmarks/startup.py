"""How long a person waits before anything happens: imports and help, each in a fresh interpreter.

Peers are what mmdet asks for in the same places: ``import mmdet``, ``import mmdet.apis`` (whose verbs an importer of
ovd has too), and the help of mmdet's own training script. The bare interpreter's start is part of all of them, and is
said first. Files are in the page cache; interpreters take turns, the median counts.

    python benchmarks/startup.py [--rounds 9]
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

from figures import print_figure

ROOT = Path(__file__).resolve().parents[1]


def seconds(command: list[str]) -> float:
    """Wall time of a process that ends with status 0."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def medians(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Seconds of each command, in turns, after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="starts of each (%(default)s)")
    args = parser.parse_args()
    mmdet = Path(importlib.util.find_spec("mmdet").origin).parent

    def python(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    ovd = [sys.executable, "-m", "pipelines.cli"]  # what the command ovd runs
    commands = {"python": python("pass"), "ovd": python("import ovd"), "help": [*ovd, "--help"],
                "train": [*ovd, "train", "--help"], "mmdet": python("import mmdet"),
                # its datasets need imgaug, for which ovd has a stand-in: some milliseconds of half a dozen seconds
                "apis": python("import ovd, mmdet.apis")}
    if (script := mmdet / ".mim" / "tools" / "train.py").is_file():
        commands["mmdet train"] = [sys.executable, str(script), "--help"]
    took = {name: 1000 * value for name, value in medians(commands, args.rounds).items()}
    print(f"# the interpreter alone: {took['python']:.0f} ms")
    print_figure("import ovd", took["ovd"], "ms", "import mmdet", took["mmdet"])
    print_figure("import ovd (its verbs load what they need)", took["ovd"], "ms", "import mmdet.apis", took["apis"])
    print_figure("ovd --help", took["help"], "ms", "import mmdet", took["mmdet"])
    if "mmdet train" in took:
        print_figure("ovd train --help", took["train"], "ms", "mmdet's tools/train.py --help", took["mmdet train"])


if __name__ == "__main__":
    main()
