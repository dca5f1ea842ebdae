"""Hooks of training and testing: seeds, the watch over losses, and progress on the console."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from PIL import Image
from tqdm import tqdm

from ovd.engine.sampling import seed_everything
from ovd.evaluation.pictures import detections_beside_truth


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite."""


class _Guard:
    """Mixin for optimiser wrappers: no step on a loss that is not finite."""

    def update_params(self, loss: torch.Tensor, *args, **kwargs) -> None:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(f"the loss is {value}")
        super().update_params(loss, *args, **kwargs)


class GuardedOptimWrapper(_Guard, OptimWrapper):
    """mmengine's wrapper, which raises :class:`NonFiniteLossError` instead of stepping on such a loss."""


class GuardedAmpOptimWrapper(_Guard, AmpOptimWrapper):
    """The same for automatic mixed precision (where the scaler deals with gradients that overflow)."""


class WatchBatchHook(Hook):
    """Remembers the images of the batch in work, and seeds what the model draws in this iteration."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.images: list[str] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Called with the batch that is about to be used."""
        self.images = [str(sample.metainfo.get("img_path", sample.metainfo.get("img_id", "?")))
                       for sample in data_batch["data_samples"]]
        seed_everything(runner.seed or 0, runner.iter, runner.rank)


class ResumePointsHook(CheckpointHook):
    """mmengine's CheckpointHook, whose interval is in the unit of the schedule: epochs, or iterations.

    Args:
        interval: by default every epoch, or every tenth of the iterations.
        max_keep_ckpts: only so many are kept.
        kwargs: as for mmengine's.
    """

    def __init__(self, interval: int | None = None, max_keep_ckpts: int = 2, **kwargs) -> None:
        super().__init__(interval=interval or -1, max_keep_ckpts=max_keep_ckpts, **kwargs)

    def before_train(self, runner: Any) -> None:
        """Fit the interval and the names of the files to the schedule."""
        self.by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        self.filename_tmpl = "epoch_{}.pth" if self.by_epoch else "iter_{}.pth"
        if self.interval < 0:
            self.interval = 1 if self.by_epoch else max(1, runner.max_iters // 10)
        super().before_train(runner)


class ProgressHook(Hook):
    """A progress bar with rate and time left for training and testing, on the main process."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def _open(self, total: int, done: int, what: str) -> None:
        if is_main_process():
            interval = 0.5 if sys.stderr.isatty() else 15.0
            self.bar = tqdm(total=total, initial=done, desc=what, unit="it", mininterval=interval, maxinterval=30.0,
                            dynamic_ncols=True, smoothing=0.05)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def before_train(self, runner: Any) -> None:
        """Open the bar, at the iteration from which a resumed run goes on."""
        self._open(runner.max_iters, runner.iter, "train")

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by an iteration; show the losses, smoothed over the last ten iterations."""
        if self.bar is None:
            return
        if runner.iter % 10 == 0:
            scalars = runner.message_hub.log_scalars
            shown = {name.removeprefix("train/"): f"{buffer.mean(10):.3g}" for name, buffer in scalars.items()
                     if name == "train/loss" or name.endswith(("loss_cls", "loss_distill"))}
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def after_train(self, runner: Any) -> None:
        """Close the bar."""
        self._close()

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Say in one line what a validation in between found."""
        if is_main_process() and metrics:
            shown = "  ".join(f"{name} {value:.1f}" for name, value in metrics.items() if name.endswith("/ap50"))
            tqdm.write(f"iteration {runner.iter}: {shown}")

    def before_test(self, runner: Any) -> None:
        """Open the bar for testing."""
        self._open(len(runner.test_dataloader), 0, "test")

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by a batch."""
        if self.bar is not None:
            self.bar.update()

    def after_test_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Close the bar."""
        self._close()


class PicturesHook(Hook):
    """While testing, writes pictures of detections beside the ground truth: ``<folder>/<name of the image>.jpg``.

    Args:
        folder: made if it does not exist.
        limit: how many pictures, shared among the processes.
        min_score: detections below it are not drawn.
        max_boxes: only so many of the best detections are drawn.
    """

    def __init__(self, folder: str | os.PathLike, limit: int = 50, min_score: float = 0.3, max_boxes: int = 40) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.min_score = min_score
        self.max_boxes = max_boxes
        self.written = 0

    def before_test(self, runner: Any) -> None:
        """Share the number of pictures among the processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = len(range(runner.rank, self.limit, runner.world_size))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw the images of a batch."""
        names = runner.test_dataloader.dataset.metainfo["classes"]
        for sample in outputs[:max(0, self.limit - self.written)]:
            path = Path(sample.metainfo["img_path"])
            image = np.asarray(Image.open(path).convert("RGB"))
            shown = detections_beside_truth(image, names, sample.pred_instances, sample.get("gt_instances"),
                                            self.min_score, self.max_boxes)
            Image.fromarray(shown).save(self.folder / f"{path.stem}.jpg", quality=92)
            self.written += 1
