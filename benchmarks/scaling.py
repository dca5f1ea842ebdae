"""How the cost of the offline stages grows with the number of images, on scenes of the embedded benchmark.

For each size: renders so many scenes, fills a proposal store with their annotated boxes (about six an image), embeds
these with the small CLIP, and asks for the embeddings once more, when there is nothing left to do. Each stage is a
command of its own. Taken are wall and processor time, the most memory of the command's first process and of one that it
started, and the bytes and files that it left. The figures are per image, the peer is the smallest size.

What was measured is kept in the scratch folder, so an interrupted run goes on with the stage that it was in; the scenes
of a size are deleted when it is done. Ends with a table, on the error stream, and the chart.

    python benchmarks/scaling.py [--images 100 1000 10000 100000] [--processes 2] [--scratch work_dirs/scaling]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import print_figure

from ovd.stores.atomic import write_bytes

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "shapes" / "vild.py"
IMAGES_PER_SHARD = 128
LOOK = 0.05  # seconds between looks at the processes
STAGES = ("render", "proposals", "embed", "nothing left")


@dataclass(frozen=True)
class Cost:
    """Of a stage at a size; times in seconds, memory and disk in bytes.

    Attributes:
        driver: Peak memory of the command's process.
        worker: Of the largest process that it started; 0 where it started none.
        disk, files: Left by the stage.
    """

    stage: str
    images: int
    processes: int
    wall: float
    cpu: float
    driver: int
    worker: int
    disk: int
    files: int


def commands(stage: str, images: int, processes: int, folder: Path) -> tuple[list[str], Path]:
    """The arguments of ``ovd`` for a stage, and what it leaves."""
    data = folder / "data"
    proposals, regions = folder / "proposals", folder / "regions"
    config = [str(CONFIG), "--data-root", str(data)]
    options = ["--cfg-options", "train_ann=annotations/instances_train.json"]
    if stage == "render":
        return ["shapes", "--data-root", str(data), "--train", str(images), "--val", "1", "--workers",
                str(processes)], data
    if stage == "proposals":
        return ["proposals", *config, "--from-annotations", "--subset", "train", "--out", str(proposals), *options,
                f"+proposals.images_per_shard={IMAGES_PER_SHARD}"], proposals
    return ["embed-regions", *config, "--proposals", str(proposals), "--out", str(regions), "--device", "cpu",
            "--processes", str(processes), *options, f"regions.images_per_shard={IMAGES_PER_SHARD}"], regions


def measure(stage: str, images: int, processes: int, folder: Path) -> Cost:
    """Run a stage.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    arguments, left = commands(stage, images, processes, folder)
    if stage != "nothing left" and left.exists():
        shutil.rmtree(left)  # of an interrupted run
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "said.txt", "w+") as said:
        start = time.perf_counter()
        command = [sys.executable, "-m", "pipelines.cli", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})
        peaks: dict[int, int] = {}
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            _look(process.pid, peaks)
            time.sleep(LOOK)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{said.read()[-2000:]}")
    driver = peaks.pop(process.pid, 0)
    size, files = _on_disk(left)
    return Cost(stage, images, processes, wall, usage.ru_utime + usage.ru_stime, driver, max(peaks.values(), default=0),
                size, files)


def _look(pid: int, peaks: dict[int, int]) -> None:
    """Note the peak memory so far of a process and of all below it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peaks[pid] = int(line.split()[1]) << 10
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                _look(int(child), peaks)


def _on_disk(folder: Path) -> tuple[int, int]:
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return sum(sizes), len(sizes)


def kept(path: Path) -> list[Cost]:
    """What earlier runs measured."""
    return [Cost(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def table(costs: Sequence[Cost]) -> str:
    """Markdown, a row for each stage and size."""
    rows = ["| stage | images | wall s | CPU ms an image | driver MB | worker MB | bytes an image | files |",
            "|---|---|---|---|---|---|---|---|"]
    for cost in sorted(costs, key=lambda cost: (STAGES.index(cost.stage), cost.images)):
        rows.append(f"| {cost.stage} | {cost.images:,} | {cost.wall:,.1f} | {cost.cpu / cost.images * 1e3:,.2f} | "
                    f"{cost.driver / 1e6:,.0f} | {cost.worker / 1e6:,.0f} | {cost.disk / cost.images:,.0f} | "
                    f"{cost.files:,} |")
    return "\n".join(rows)


def draw(costs: Sequence[Cost], path: Path) -> None:
    """A chart: processor time an image, and memory, against images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for stage in STAGES:
        mine = sorted((cost for cost in costs if cost.stage == stage), key=lambda cost: cost.images)
        images = [cost.images for cost in mine]
        time_axis.loglog(images, [cost.cpu / cost.images * 1e3 for cost in mine], "o-", label=stage)
        if stage in ("proposals", "embed"):
            memory_axis.semilogx(images, [cost.driver / 1e6 for cost in mine], "o-", label=stage)
    mine = sorted((cost for cost in costs if cost.stage == "embed" and cost.worker), key=lambda cost: cost.images)
    memory_axis.semilogx([cost.images for cost in mine], [cost.worker / 1e6 for cost in mine], "o-",
                         label="embed, a worker")
    time_axis.set(xlabel="images", ylabel="CPU ms an image")
    memory_axis.set(xlabel="images", ylabel="peak MB", ylim=(0, None))
    for axis in (time_axis, memory_axis):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000], help="sizes (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that render, and that embed (%(default)s)")
    parser.add_argument("--scratch", type=Path, default=ROOT / "work_dirs" / "scaling", help="(work_dirs/scaling)")
    parser.add_argument("--keep", action="store_true", help="do not delete the scenes and stores of a size when done")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--chart", type=Path, help="where to draw (default: scaling.png in the scratch folder)")
    args = parser.parse_args()
    if args.fresh and args.scratch.exists():
        shutil.rmtree(args.scratch)
    args.scratch.mkdir(parents=True, exist_ok=True)
    record = args.scratch / "costs.jsonl"
    costs = {(cost.stage, cost.images): cost for cost in kept(record) if cost.processes == args.processes}
    first = min(args.images)
    for images in sorted(args.images):
        folder = args.scratch / str(images)
        wanted = [stage for stage in STAGES if (stage, images) not in costs]
        begun = STAGES.index(wanted[0]) if wanted else len(STAGES)
        if 0 < begun < len(STAGES) and not (folder / "data").exists():
            begun = 0  # what the missing stages read was deleted
        for stage in STAGES[begun:]:
            print(f"{stage}, {images:,} images", file=sys.stderr, flush=True)
            costs[stage, images] = measure(stage, images, args.processes, folder)
            lines = [json.dumps(asdict(cost)) + "\n" for cost in kept_others(record, costs) + list(costs.values())]
            write_bytes(record, "".join(lines).encode())
        for stage in STAGES:
            cost, small = costs[stage, images], costs[stage, first]
            peer = f"{first:,} images"
            print_figure(f"{stage}, {images:,} images, {args.processes} processes", cost.wall / images * 1e3,
                         "ms an image", peer, small.wall / first * 1e3)
            print_figure(f"{stage}, {images:,} images, memory of the driver", cost.driver / 1e6, "MB", peer,
                         small.driver / 1e6)
        if not args.keep and folder.exists():
            shutil.rmtree(folder)
    shown = [cost for cost in costs.values() if cost.images in args.images]
    draw(shown, args.chart or args.scratch / "scaling.png")
    print(table(shown), file=sys.stderr)


def kept_others(record: Path, costs: dict[tuple[str, int], Cost]) -> list[Cost]:
    """Kept costs of other numbers of processes."""
    mine = {cost.processes for cost in costs.values()}
    return [cost for cost in kept(record) if cost.processes not in mine]


if __name__ == "__main__":
    main()
