"""How much faster heads are for all episodes at once than for one episode after the other, the plain loop.

The loop makes a class head of each episode's supports and scores its queries. Both give the same answers, which is
checked first: to 2 queries in 1,000, since products of other shapes round otherwise.

    python benchmarks/episodes.py [--episodes 2000] [--loop-episodes 50] [--dims 128 512]
"""

import argparse
import time

import numpy as np
import torch
from figures import print_figure

from ovd.fewshot.episodic.episodes import Episodes, sample_episodes
from ovd.fewshot.episodic.heads import get_head
from ovd.fewshot.episodic.objects import EmbeddedObjects
from ovd.fewshot.episodic.tasks import blocks
from ovd.fewshot.sources import from_supports

CLASSES, EACH = 30, 40
SETTINGS = {"prototype": {}, "matching": {}, "tip": {}, "tip-f": {"lr": 0.1}, "linear": {"lr": 0.1},
            "cosine": {"lr": 0.1}, "negative-margin": {"lr": 0.1}}


def clusters(dim: int) -> EmbeddedObjects:
    """Classes that overlap somewhat."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), EACH)
    rows = rng.normal(size=(CLASSES, dim))[labels] + 3 * rng.normal(size=(len(labels), dim))
    return EmbeddedObjects(tuple(f"class {label}" for label in range(CLASSES)), labels, rows.astype(np.float16))


def at_once(objects: EmbeddedObjects, episodes: Episodes, name: str) -> torch.Tensor:
    """The answers of all queries, ``[E, Q]``."""
    scores = get_head(name).scores
    return torch.cat([scores(tasks, **SETTINGS[name]).argmax(dim=-1) for tasks in blocks(objects, episodes)])


def in_turn(objects: EmbeddedObjects, episodes: Episodes, name: str) -> torch.Tensor:
    """The same by a class head for each episode."""
    method, answers = get_head(name).method[0], []
    for tasks in blocks(objects, episodes, size=1):
        seed = {"seed": tasks.fit_seed(tasks.numbers[0])} if SETTINGS[name] else {}
        head = from_supports(tasks.support_ESD[0], tasks.label_S, [str(label) for label in range(tasks.way)], method,
                             **SETTINGS[name], **seed)
        answers.append(head.logits(tasks.query_EQD[0]).argmax(dim=1))
    return torch.stack(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000, help="5-way 5-shot, 15 queries (%(default)s)")
    parser.add_argument("--loop-episodes", type=int, default=50, help="of the plain loop; its time is scaled up "
                        "(%(default)s)")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512], help="embedding widths (128 512)")
    args = parser.parse_args()
    for dim in args.dims:
        objects = clusters(dim)
        few, many = (sample_episodes(objects.labels_N, objects.names, way=5, shot=5, query=15, episodes=count, seed=0)
                     for count in (args.loop_episodes, args.episodes))
        for name in SETTINGS:
            start = time.perf_counter()
            expected = in_turn(objects, few, name)
            loop = (time.perf_counter() - start) * args.episodes / args.loop_episodes
            start = time.perf_counter()
            answers = at_once(objects, many, name)
            seconds = time.perf_counter() - start
            differing = (answers[:len(expected)] != expected).float().mean().item()
            if differing > 2e-3:
                raise SystemExit(f"{name}: {differing:.2%} of the answers differ")
            print_figure(f"{args.episodes} episodes 5-way 5-shot, {name}, D {dim}", seconds, "s",
                         "one episode at a time", loop)


if __name__ == "__main__":
    main()
