"""Few-shot classification over cached embeddings: accuracy over episodes, for heads with and without a fit.

    ovd fewshot-classify photos --shot 1 5
    ovd fewshot-classify lists/all.csv --images photos --classes cat dog owl fox hen --heads prototype tip
    ovd fewshot-classify val.json --images val2017 --split 48_17 --subset novel --tune-on base
    ovd fewshot-classify regions/ground_truth --annotations train.json --split split.json --subset novel --tune-on base
    ovd fewshot-classify CUB_200_2011 --split cub --subset test --tune-on train --heads prototype cosine relation
    ovd fewshot-classify photos --predict new.jpg

SOURCE is a folder of class folders, a csv list (path,class[,x1,y1,x2,y2]), a COCO or LVIS json whose boxes are the
objects, or a region store of annotated boxes (ovd proposals CONFIG --from-annotations, then ovd embed-regions), which
is taken as it is. Pictures are embedded once, into --cache. All heads see the same episodes. --tune-on chooses each
head's settings on other classes; relation and maml are trained on them. See docs/fewshot_classification.md.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np

    from ovd.fewshot.episodic.episodes import Episodes
    from ovd.fewshot.episodic.objects import EmbeddedObjects
    from ovd.fewshot.episodic.sources import Sources
    from ovd.stores.class_heads import ClassHead

STAGE = "fewshot-classify"
USUAL = ("prototype", "prototype-euclid", "matching", "tip", "tip-f", "linear", "cosine", "negative-margin")
SMOKE = {"episodes": 20, "tune_episodes": 10, "iterations": 5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/fewshot_classify.py``."""
    where = parser.add_argument_group("the objects")
    where.add_argument("sources", nargs="+", metavar="SOURCE", help="a folder of class folders, a .csv list, a COCO or "
                       "LVIS .json, a region store; classes of one name are one class")
    where.add_argument("--images", nargs="+", default=[], metavar="DIR", help="image folder of the .csv and .json "
                       "sources: one for all, or one for each (default: the folder of the list)")
    where.add_argument("--annotations", nargs="+", default=[], metavar="FILE", help="annotation file of the region "
                       "stores, one for each")
    where.add_argument("--split", metavar="SPLIT", help="cub, mini-imagenet, tiered-imagenet, or a detection split by "
                       "name or file (base and novel)")
    where.add_argument("--subset", metavar="NAME", help="classes of the episodes: train, val, test; base, novel "
                       "(default: test or novel)")
    where.add_argument("--classes", nargs="+", metavar="NAME", help="classes of the episodes by name, or a .txt file")
    where.add_argument("--on-few", choices=("stop", "skip"), default="stop", help="a class with too few objects: stop "
                       "(default), or leave it out")
    where.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="a picture that cannot be read: "
                       "stop (default), or leave it out")
    how = parser.add_argument_group("the episodes")
    how.add_argument("--heads", nargs="+", default=list(USUAL), metavar="HEAD", help="also text, relation and maml "
                     f"(default: {' '.join(USUAL)})")
    how.add_argument("--way", type=int, default=5, metavar="N", help="classes of an episode (%(default)s)")
    how.add_argument("--shot", type=int, nargs="+", default=None, metavar="K", help="support objects of a class, one "
                     "or more numbers (5; with --predict: all)")
    how.add_argument("--query", type=int, default=15, metavar="Q", help="queries of a class (%(default)s)")
    how.add_argument("--episodes", type=int, default=2000, metavar="E", help="(%(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of the episodes (%(default)s)")
    how.add_argument("--class-head", metavar="FILE", help="the classes' texts, for tip, tip-f and text")
    how.add_argument("--tune-on", metavar="NAME", help="a subset with other classes, on which settings are chosen and "
                     "relation and maml are trained: train or base (default: none; the protocol's settings)")
    how.add_argument("--tune-classes", nargs="+", metavar="NAME", help="the same by name, or a .txt file")
    how.add_argument("--tune-episodes", type=int, default=200, metavar="E", help="for each setting (%(default)s)")
    clip = parser.add_argument_group("the encoder, for sources that are no region store")
    clip.add_argument("--pretrained", default="ViT-B/32", metavar="CLIP", help="(%(default)s)")
    clip.add_argument("--model", metavar="NAME", help="architecture of a weights file that does not say it")
    clip.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5], help="of the crops of boxes (1.0 1.5)")
    clip.add_argument("--cache", default="work_dirs/picture_embeddings", metavar="DIR", help="(%(default)s)")
    clip.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where pictures are embedded")
    clip.add_argument("--allow-untrained", action="store_true", help="permit a CLIP of random weights")
    parser.add_argument("--predict", nargs="+", metavar="IMAGE", help="name these pictures by the first of --heads, "
                        "with the sources as its examples, instead of drawing episodes")
    parser.add_argument("--out", metavar="FILE", help="write the results, a json")
    parser.add_argument("--overwrite", action="store_true", help="compute again")
    parser.add_argument("--smoke", action="store_true", help="a few episodes and steps, to see that everything runs; "
                        "the numbers mean nothing")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/fewshot_classify.py`` and ``ovd fewshot-classify``."""
    options = {key: value for key, value in vars(args).items() if key not in ("sources", "predict", "shot")}
    if args.predict:
        if args.shot and len(args.shot) > 1:
            raise UserError(f"--predict --shot {' '.join(map(str, args.shot))}: give one number")
        predict(args.predict, args.sources, shot=args.shot[0] if args.shot else None, **options)
        return 0
    with _announced(args.smoke):
        fewshot_classify(args.sources, shots=args.shot or [5], **options)
    return 0


def fewshot_classify(sources: Sequence[str], *, heads: Sequence[str] = USUAL, way: int = 5, shots: Sequence[int] = (5,),
                     query: int = 15, episodes: int = 2000, seed: int = 0, subset: str | None = None,
                     classes: Sequence[str] | None = None, tune_on: str | None = None,
                     tune_classes: Sequence[str] | None = None, tune_episodes: int = 200, on_few: str = "stop",
                     class_head: str | None = None, split: str | None = None, out: str | None = None,
                     overwrite: bool = False, smoke: bool = False, **where: Any) -> dict[str, Any]:
    """Evaluate heads over episodes, print a table and write it.

    Args:
        where: Further fields of :class:`~ovd.fewshot.episodic.sources.Sources`.
        Others: As the options of the command line.

    Returns:
        What is written: ``{"rows": [{"method", "shot", "accuracy", "interval", "settings"}], ...}``, in per cent.

    Raises:
        UserError: Wrong input; see the modules of ``ovd.fewshot.episodic``.
    """
    from ovd.fewshot.episodic.episodes import check_numbers, sample_episodes
    from ovd.fewshot.episodic.heads import get_head
    from ovd.fewshot.episodic.sources import Sources
    from ovd.stores.atomic import check_writable
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, publish

    start = time.perf_counter()
    for name in heads:
        if get_head(name).train_on_base and not (tune_on or tune_classes):
            raise UserError(f"--heads {name}: is trained on base classes; name them with --tune-on or --tune-classes")
    if "text" in heads and not class_head:
        raise UserError("--heads text: needs the classes' texts; name a class head file with --class-head")
    if smoke:
        episodes, tune_episodes = min(episodes, SMOKE["episodes"]), min(tune_episodes, SMOKE["tune_episodes"])
    for shot in shots:
        check_numbers(way, shot, query, episodes, seed)
    if tune_episodes < 2:
        raise UserError(f"--tune-episodes {tune_episodes}: needs at least 2")
    if out:
        check_writable(out)
    objects, base, skipped = _objects(Sources(sources, **where), split, subset, classes, tune_on, tune_classes)
    few: list[str] = []
    if on_few == "skip":
        objects, few = objects.with_enough(max(shots) + query)
        base, more = (None, []) if base is None else base.with_enough(max(shots) + query)
        few += more
    for line in [*skipped, *(f"class {name}: fewer than {max(shots) + query} objects" for name in few)]:
        print(f"left out: {line}")
    inputs = {"objects": objects.fingerprint(), **({} if base is None else {"base": base.fingerprint()})}
    texts = None
    if class_head is not None:
        texts = [None if part is None else _texts(class_head, part) for part in (objects, base)]
        inputs["class_head"] = fingerprint(class_head)
    config = {"heads": list(heads), "way": way, "shots": list(shots), "query": query, "episodes": episodes,
              "seed": seed, "classes": list(objects.names), "tune_classes": None if base is None else list(base.names),
              "tune_episodes": tune_episodes, "smoke": smoke, "skipped": skipped}
    if out and current_or_remove(out, STAGE, config, inputs, overwrite):
        print(f"{out} is up to date")
        return json.loads(Path(out).read_text(encoding="utf-8"))
    rows = []
    for shot in shots:
        sizes = {"way": way, "shot": shot, "query": query}
        drawn = sample_episodes(objects.labels_N, objects.names, **sizes, episodes=episodes, seed=seed)
        tuning = None if base is None else sample_episodes(base.labels_N, base.names, **sizes, episodes=tune_episodes,
                                                           seed=seed + 1)
        rows += [_row(name, objects, drawn, base, tuning, texts or (None, None), smoke) for name in heads]
    results = {"rows": [{**row, **({"accuracy": None, "interval": None} if smoke else {})} for row in rows],
               "way": way, "query": query, "episodes": episodes, "seed": seed, "classes": len(objects.names),
               "objects": len(objects), "tuned_on": None if base is None else len(base.names),
               "skipped": skipped, "smoke": smoke}
    _print(results, shots)
    if out:
        manifest = Manifest("fewshot_classification", STAGE, config, inputs, flags={"smoke": True} if smoke else {},
                            counts={"classes": len(objects.names), "objects": len(objects), "episodes": episodes},
                            skipped=skipped)
        with publish(out, manifest) as (temporary, _):
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"results: {out}")
    print(f"{episodes} episodes of {way} classes from {len(objects.names)} classes, {len(objects):,} objects, in "
          f"{time.perf_counter() - start:.0f} s")
    return results


def _row(name: str, objects: "EmbeddedObjects", drawn: "Episodes", base: "EmbeddedObjects | None",
         tuning: "Episodes | None", texts: "Sequence[np.ndarray | None]", smoke: bool) -> dict[str, Any]:
    """What one head reaches: its settings are chosen, or it is trained, on the base classes where there are any."""
    from ovd.fewshot.episodic.evaluation import evaluate, tune
    from ovd.fewshot.episodic.heads import get_head

    head, settings = get_head(name), {}
    scores = head.scores
    if head.train_on_base:
        scores = head.train_on_base(base, way=drawn.way, shot=drawn.shot, query=drawn.query, seed=drawn.seed,
                                    **({"iterations": SMOKE["iterations"]} if smoke else {}))
    elif tuning is not None:
        settings = tune(scores, head.candidates(texts[1] is not None), base, tuning, texts[1], f"tuning {name}")
    result = evaluate(lambda tasks: scores(tasks, **settings), objects, drawn, texts[0], name)
    return {"method": name, "shot": drawn.shot, "accuracy": round(result.mean, 2),
            "interval": round(result.interval, 2), "settings": settings}


def _objects(sources: "Sources", split: str | None, subset: str | None, classes: Sequence[str] | None,
             tune_on: str | None, tune_classes: Sequence[str] | None
             ) -> tuple["EmbeddedObjects", "EmbeddedObjects | None", list[str]]:
    """The objects of the episodes, those of the classes to tune on, and what was left out."""
    from ovd.data.classification.benchmarks import BENCHMARKS
    from ovd.fewshot.episodic.sources import read_sources
    from ovd.vocabulary.classes import canonical

    if split in BENCHMARKS:
        if classes or tune_classes:
            raise UserError(f"--split {split} says which classes; leave out --classes and --tune-classes")
        subset = subset or "test"
        if subset == tune_on:
            raise UserError(f"--subset {subset} --tune-on {tune_on}: choose settings on other classes")
        objects, skipped = read_sources(sources, split, subset)
        base, more = read_sources(sources, split, tune_on) if tune_on else (None, [])
        return objects, base, skipped + more
    names = _class_list(split, subset, classes, "--classes", "novel")
    base_names = _class_list(split, tune_on, tune_classes, "--tune-classes", None)
    everything, skipped = read_sources(sources)
    names = names or list(everything.names)
    objects = everything.select(names)
    if not base_names:
        return objects, None, skipped
    if shared := sorted({canonical(name) for name in base_names} & {canonical(name) for name in names}):
        raise UserError(f"{len(shared)} classes are both to test and to tune on, e.g. {shared[0]!r}; choose other ones "
                        "with --subset, --classes, --tune-on or --tune-classes")
    return objects, everything.select(base_names), skipped


def _class_list(split: str | None, subset: str | None, classes: Sequence[str] | None, option: str,
                usual: str | None) -> list[str] | None:
    """The classes by name; None for no choice."""
    from ovd.stores.class_heads import read_names
    from ovd.vocabulary.splits import get_split

    if classes:
        if subset:
            raise UserError(f"{option} and the subset {subset!r} both say which classes; give one of them")
        in_file = len(classes) == 1 and classes[0].endswith((".txt", ".json"))
        return read_names(classes[0]) if in_file else list(classes)
    if split is None:
        if subset:
            raise UserError(f"subset {subset!r} of what? Name a --split, or the classes with {option}")
        return None
    chosen, subset = get_split(split), subset or usual
    known = {"base": chosen.base, "novel": chosen.novel, **chosen.groups}
    if subset is not None and subset not in known:
        raise UserError(f"split {chosen.name} has no subset {subset!r}{nearest(subset, known)}")
    if subset is not None and not known[subset]:
        raise UserError(f"split {chosen.name} has no {subset} classes; choose another subset, such as "
                        f"{next(name for name, members in known.items() if members)}, or name the classes")
    return None if subset is None else list(known[subset])


def _texts(path: str, objects: "EmbeddedObjects") -> "np.ndarray":
    """Text logits of all objects for all their classes, float32 ``[N, C]``."""
    import numpy as np

    head = _class_head(path, objects)
    blocks = range(0, len(objects), 4096)
    return np.concatenate([head.logits(objects.unit_rows(np.arange(start, min(start + 4096, len(objects))))).numpy()
                           for start in blocks])


def _class_head(path: str, objects: "EmbeddedObjects") -> "ClassHead":
    from ovd.stores.class_registry import load_classes

    head = load_classes(path)
    try:
        return head.select(objects.names).check(objects.dim, objects.space.get("clip"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def predict(pictures: Sequence[str], sources: Sequence[str], *, heads: Sequence[str] = USUAL, shot: int | None = None,
            seed: int = 0, split: str | None = None, subset: str | None = None, classes: Sequence[str] | None = None,
            class_head: str | None = None, out: str | None = None, top: int = 5,
            **options: Any) -> list[dict[str, Any]]:
    """Name pictures, with the sources' objects as examples of their classes, and print the best names of each.

    Args:
        heads: The first one is used.
        shot: Examples of each class, drawn from the seed; None for all. A class that has fewer has those.
        options: As the options of the command line.

    Returns:
        ``[{"image", "names", "probabilities"}]``, the best first.

    Raises:
        UserError: A head that makes no class head; wrong input.
    """
    import numpy as np
    import torch

    from ovd.data.classification.pictures import Picture
    from ovd.fewshot.episodic.heads import HEADS, get_head
    from ovd.fewshot.episodic.sources import Sources
    from ovd.fewshot.sources import from_supports
    from ovd.stores.atomic import write_bytes

    if get_head(heads[0]).method is None:
        able = [name for name, head in HEADS.items() if head.method]
        raise UserError(f"--predict with --heads {heads[0]}: makes no class head; choose one of {', '.join(able)}")
    for option, value, least in (("--shot", 1 if shot is None else shot, 1), ("--seed", seed, 0)):
        if value < least:
            raise UserError(f"{option} {value}: needs at least {least}")
    where = Sources(sources, **{name: options[name] for name in Sources.__dataclass_fields__ if name in options})
    objects, _, _ = _objects(where, split, subset, classes, None, None)
    members = [np.flatnonzero(objects.labels_N == label) for label in range(len(objects.names))]
    if empty := [name for name, places in zip(objects.names, members) if not len(places)]:
        raise UserError(f"class {empty[0]!r} has no examples; add one, or leave the class out")
    rng = np.random.default_rng(seed)
    places = np.concatenate([rng.permutation(places)[:shot] for places in members])
    method, settings = get_head(heads[0]).method
    if class_head is not None:
        if not method.startswith("tip"):
            raise UserError(f"--class-head: --heads {heads[0]} takes no texts; use tip or tip-f")
        settings = {**settings, "text": _class_head(class_head, objects)}
    head = from_supports(objects.unit_rows(places), torch.from_numpy(objects.labels_N[places]), objects.names, method,
                         stats=objects.space, **settings)
    queries, _ = replace(where, on_error="stop").embed([Picture(str(file), "?") for file in pictures], where.clip())
    head.check(queries.dim, objects.space.get("clip") and queries.space["clip"])
    probabilities = head.logits(queries.unit_rows(np.arange(len(queries)))).softmax(dim=1)
    best = probabilities.topk(min(top, len(objects.names)), dim=1)
    found = [{"image": str(file), "names": [objects.names[label] for label in labels],
              "probabilities": [round(value, 4) for value in values]}
             for file, labels, values in zip(pictures, best.indices.tolist(), best.values.tolist())]
    for record in found:
        said = ", ".join(f"{name} {value:.3f}" for name, value in zip(record["names"], record["probabilities"]))
        print(f"{record['image']}: {said}")
    if out:
        write_bytes(out, (json.dumps(found, indent=1) + "\n").encode())
    print(f"{len(found)} picture{'s' * (len(found) != 1)} among {len(objects.names)} classes by {heads[0]} of "
          f"{len(places)} examples")
    return found


def _print(results: Mapping[str, Any], shots: Sequence[int]) -> None:
    """A table of method against shots."""
    width = max(len(row["method"]) for row in results["rows"])
    print(" " * width + "".join(f"{f'{shot}-shot':>17}" for shot in shots) + "   settings")
    for name in dict.fromkeys(row["method"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["method"] == name]
        cells = ["-" if row["accuracy"] is None else f"{row['accuracy']:.2f} +- {row['interval']:.2f}" for row in rows]
        settings = [" ".join(f"{key} {value:g}" for key, value in row["settings"].items()) for row in rows]
        said = " | ".join(settings) if any(settings) else ""
        print(f"{name:<{width}}" + "".join(f"{cell:>17}" for cell in cells) + f"   {said}".rstrip())


def _announced(smoke: bool) -> AbstractContextManager[None]:
    if not smoke:
        return nullcontext()
    from ovd.engine.smoke import announced

    return announced("ovd fewshot-classify", smoke)
