"""Smoke tests: a command on a few images, to see that it runs; its numbers mean nothing, and everything says so.

Off unless asked for by ``--smoke``. What such a run writes goes into folders of its own (``<work dir>_smoke``) and
carries the mark ``"smoke": true``: in manifests, in ``metrics.json`` and ``results.jsonl`` (which have no scores then),
and in what is made from it later. No run without ``--smoke`` takes it for up to date, since the recipe has the mark.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from ovd.engine.config import walk
from ovd.engine.marks import marked

FLAG = "smoke"
ITERATIONS = 3
IMAGES = 4
BATCH = 2


@contextmanager
def announced(command: str, smoke: bool) -> Iterator[None]:
    """Say loudly, before and after, that the numbers of a smoke test mean nothing; nothing where it is none.

    Args:
        command: what runs, such as ``"ovd train"``.
        smoke: whether it is a smoke test.
    """
    if not smoke:
        yield
        return
    print(banner(f"SMOKE TEST of {command}: a few images only. Its numbers mean nothing."), flush=True)
    yield
    print(banner(f"That was a SMOKE TEST of {command}. Its numbers mean nothing; run it without --smoke."), flush=True)


def banner(text: str) -> str:
    """``text`` in a frame.

    >>> print(banner("a b"))
    ###########
    ### a b ###
    ###########
    """
    edge = "#" * (len(text) + 8)
    return f"{edge}\n### {text} ###\n{edge}"


def smoke_training(cfg: Config) -> None:
    """Make of a config's training a smoke test, in place: ``ITERATIONS`` iterations, or an epoch of ``IMAGES`` images;
    no validation."""
    _mark(cfg)
    if "max_iters" in cfg.train_cfg:
        cfg.train_cfg.max_iters = min(ITERATIONS, cfg.train_cfg.max_iters)
    else:
        cfg.train_cfg.max_epochs = 1
        _few_images(cfg.train_dataloader)
    _small_batches(cfg.train_dataloader)
    for hook in cfg.get("custom_hooks") or ():
        if "batches" in hook:  # statistics that are measured again
            hook["batches"] = 1
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None


def smoke_testing(cfg: Config) -> None:
    """Make of a config's evaluation a smoke test of ``IMAGES`` images, in place."""
    _mark(cfg)
    _few_images(cfg.test_dataloader)
    _small_batches(cfg.test_dataloader)


def smoked(artefacts: Iterable[str | os.PathLike]) -> list[Path]:
    """Those of ``artefacts`` (checkpoints, class heads, ...) that come from a smoke test."""
    return marked(artefacts, FLAG)


def warn(sources: list[Path]) -> None:
    """Say that what is made from ``sources`` means nothing; nothing where there are none."""
    if sources:
        print(f"WARNING: {' and '.join(map(str, sources))}: from a smoke test (--smoke). What is made from it means "
              "nothing and carries the same mark.")


def _mark(cfg: Config) -> None:
    cfg[FLAG] = True
    cfg.work_dir = f"{cfg.work_dir}_smoke"


def _few_images(loader: dict) -> None:
    for _, part in walk(loader):
        if part.get("ann_file"):
            part["indices"] = IMAGES


def _small_batches(loader: dict) -> None:
    loader.update(batch_size=min(BATCH, loader["batch_size"]), num_workers=0, persistent_workers=False)
    loader.pop("prefetch_factor", None)
