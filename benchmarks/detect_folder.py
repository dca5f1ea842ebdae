"""A folder of pictures from files to boxes, masks, json and drawn pictures: `ovd detect` against a plain loop.

The peer is the same detector's ``detect`` and ``save``, one picture after the other. The detections of both are
compared before figures are printed. Rounds alternate.

    python benchmarks/detect_folder.py [--images 200] [--size 640] [--batch-size 8] [--device cuda]
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import print_figure

import ovd
from ovd.apis.detector import Detector
from ovd.data.frames import Frames
from ovd.data.shapes.dataset import write_dataset
from pipelines.detect.results import Results
from pipelines.detect.work import detect_frames


def loop(detector: Detector, files: list[Path], out: Path) -> tuple[float, list[np.ndarray]]:
    """Seconds of the plain loop, and the boxes of each picture."""
    out.mkdir()
    boxes = []
    start = time.perf_counter()
    for file in files:
        found = detector.detect(file)
        found.save(out / f"{file.stem}.json")
        found.save(out / file.name)
        boxes.append(found.boxes)
    return time.perf_counter() - start, boxes


def command(detector: Detector, folder: Path, out: Path, batch_size: int) -> tuple[float, float, list[np.ndarray]]:
    """Seconds, the share of them in which the detector worked, and the boxes of each picture."""
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        detect_frames(detector, Frames([folder]), Results(out, {}), threshold=0.3, masks=True, pictures=True,
                      batch_size=batch_size, max_per_image=100)
    seconds = time.perf_counter() - start
    busy = float(said.getvalue().partition("busy ")[2].partition("%")[0]) / 100
    found = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    return seconds, busy, [np.array([one["box"] for one in record["detections"]]).reshape(-1, 4) for record in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=640, help="side in pixels (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    detector = ovd.load("demo", device=args.device)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        with contextlib.redirect_stderr(io.StringIO()):
            write_dataset(root, {"val": args.images}, seed=0, size=args.size)
        folder = root / "val2017"
        files = sorted(folder.iterdir())
        detector.detect(files[:args.batch_size])
        plain, ours, busy = [], [], []
        for number in range(args.rounds):
            seconds, expected = loop(detector, files, root / f"loop{number}")
            plain.append(seconds)
            seconds, share, found = command(detector, folder, root / f"command{number}", args.batch_size)
            ours.append(seconds)
            busy.append(share)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=0.1)
    what = f"{args.size} x {args.size} pictures, files to files, the demo's detector, {detector.device.type}"
    print_figure(what, args.images / statistics.median(ours), "images/s", "one after the other",
                 args.images / statistics.median(plain), higher_is_better=True)
    print_figure(f"share of the time in which the detector works, {what}", 100 * statistics.median(busy), "%",
                 "all of it", 100, higher_is_better=True)


if __name__ == "__main__":
    main()
