"""Changing what a loaded detector looks for: by a name, by example boxes, in its own session, at another threshold.

Peers do the same without what the API keeps: a detector loaded again with the vocabulary, a text encoder made anew,
boxes embedded one image at a time by loading again, images looked at again. Results are compared before figures are
printed. The demo model is small; the text tower of a full-size CLIP is timed by itself (--clip).

    python benchmarks/api.py [--device cuda] [--clip untrained:ViT-B-32-quickgelu]
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from figures import print_figure
from torchvision.ops import box_iou

import ovd
from ovd.apis.words import Words
from ovd.clip.text import class_embeddings
from ovd.clip.towers import load_clip
from ovd.data.shapes.dataset import scene
from ovd.vocabulary.prompts import get_style

LIMITS = {"name": 0.05, "boxes": 1.0}  # seconds that are asked for


def median(work: Callable[[], object], rounds: int, device: str) -> float:
    """Seconds of ``work()``, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(args: argparse.Namespace) -> None:
    """Print a line a figure."""
    detector = ovd.load("demo", device=args.device)
    scenes = [scene(7, 0, index, 192, False) for index in range(args.boxes)]
    images = [pixels for pixels, _ in scenes]
    examples = [(pixels, objects[0].box) for pixels, objects in scenes]
    number = itertools.count()
    what = f"demo model, {args.device}"

    def timed(work: Callable[[], object]) -> float:
        return median(work, args.rounds, args.device)

    def loaded_again() -> ovd.Detector:
        again = ovd.load("demo", device=args.device, vocabulary=[f"new gadget {next(number)}"])
        again.names  # noqa: B018 - what is asked for
        return again

    def by_name() -> None:
        detector.add_class(f"new gadget {next(number)}")

    reload = timed(loaded_again)
    print_figure(f"a new class by its name, {what} (asked for: {LIMITS['name']} s)", timed(by_name), "s",
                 "the model loaded again with it", reload)

    def by_boxes() -> None:
        detector.add_class(f"boxed {next(number)}", boxes=examples)

    def by_boxes_again() -> None:
        loaded_again().add_class(f"boxed {next(number)}", boxes=examples)

    print_figure(f"a new class by {len(examples)} boxes of as many images and its name, {what} (asked for: "
                 f"{LIMITS['boxes']} s)", timed(by_boxes), "s", "the model loaded again, then the boxes",
                 timed(by_boxes_again))
    print_figure(f"a session beside others, {what}", timed(detector.session), "s", "the model loaded again", reload)

    detector.reset_vocabulary()
    evidence = detector.look(images)
    low = detector.detect(images, threshold=0.1)
    for one, other in zip(low, detector.name(evidence, threshold=0.1)):
        if one.names != other.names or not np.array_equal(one.boxes, other.boxes):
            raise SystemExit("naming again gives something else than detecting again")
    print_figure(f"another threshold for {len(images)} images of 192 x 192 with masks, {what}",
                 timed(lambda: detector.name(evidence, threshold=0.1)), "s", "detected again",
                 timed(lambda: detector.detect(images, threshold=0.1)))

    names_that_compete(detector, args.scenes)

    clip = load_clip(args.clip, device=args.device, allow_untrained=True)
    words, style = Words(lambda: clip), get_style("vild")
    name = "a name for comparison"
    if not torch.equal(words.head([name]).weights, class_embeddings(clip, ["name for comparison"], style).weights):
        raise SystemExit("the kept encoder gives another row than one made anew")
    text = f"{len(style.templates)} prompts of a new name by {args.clip.removeprefix('untrained:')}, {args.device}"
    print_figure(text, timed(lambda: words.head([f"gadget {next(number)}"])), "s", "an encoder made anew",
                 timed(lambda: class_embeddings(clip, [f"gadget {next(number)}"], style)))


def names_that_compete(detector: ovd.Detector, count: int) -> None:
    """Print how many of the boxes for five names are right, with silent rivals and without, at equal recall."""
    scenes = [scene(11, 0, index, 192, False) for index in range(count)]
    evidence = [detector.look([pixels for pixels, _ in scenes[first:first + 10]], masks=False)
                for first in range(0, count, 10)]
    draw, session, figures = random.Random(0), detector.session(), {}
    chosen = [draw.sample(detector.own_names, 5) for _ in range(10)]
    for rivals in (None, "own"):
        right = shown = there = 0
        for names in chosen:
            session.set_vocabulary(names, rivals)
            found = [one for part in evidence for one in session.name(part, threshold=0.3)]
            for (_, objects), one in zip(scenes, found):
                truth = [(thing.category.name, thing.box) for thing in objects if thing.category.name in names]
                right += matches(one, truth)
                shown, there = shown + len(one), there + len(truth)
        figures[rivals] = right / shown, right / there
    print(f"# recall of five names: {figures['own'][1]:.3f} with rivals, {figures[None][1]:.3f} without")
    print_figure(f"precision of five names at a threshold of 0.3, {count} scenes, ten draws of names",
                 figures["own"][0], "", "without rivals", figures[None][0], higher_is_better=True)


def matches(found: ovd.Detections, truth: list[tuple[str, tuple[int, int, int, int]]]) -> int:
    """How many detections, best first, lie on an object of their class that no better one lies on."""
    left, count = list(truth), 0
    for one in found:
        for entry in left:
            if entry[0] == one.name and box_iou(*(torch.tensor(box, dtype=torch.float32)[None]
                                                  for box in (one.box, entry[1]))) >= 0.5:
                left.remove(entry)
                count += 1
                break
    return count


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="untrained:ViT-B-32-quickgelu", help="text tower (%(default)s)")
    parser.add_argument("--scenes", type=int, default=100, help="for what rivals do (%(default)s)")
    parser.add_argument("--boxes", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="medians of so many (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
