"""Batch-normalisation statistics of the weights as they are, instead of a moving average over weights of the past.

Detection batches are small and backbones with trainable batch normalisation change quickly, so the moving averages that
evaluation uses lag behind and are noisy (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, sec. 3). Mean and
variance over many batches, taken with the weights fixed, are neither.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader

from ovd.engine.sampling import NumberedSampler, SkippableBatches, seed_everything
from ovd.errors import UserError


class _Moments:
    """Mean and variance of the inputs of one batch-normalisation layer, over all that it is given.

    Sums are in double precision, of moments that each batch has about its own mean, so large means cost no digits.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        width, device = layer.num_features, layer.running_mean.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums_3C = torch.zeros(3, width, dtype=dtype, device=device)  # count, sum, sum of squares

    def add(self, inputs: Tensor) -> None:
        """Take in ``inputs [N, C, ...]``; an empty batch counts nothing."""
        count = inputs.numel() // inputs.shape[1] if inputs.shape[1] else 0
        if count == 0:
            return
        dims = [dim for dim in range(inputs.ndim) if dim != 1]
        var_C, mean_C = torch.var_mean(inputs.detach().float(), dim=dims, correction=0)
        var_C, mean_C = var_C.to(self.sums_3C), mean_C.to(self.sums_3C)
        self.sums_3C += count * torch.stack([torch.ones_like(mean_C), mean_C, var_C + mean_C**2])

    def store(self) -> bool:
        """Write the statistics, over all processes, into the layer; False where it has seen too little."""
        dist.all_reduce(self.sums_3C)
        count = self.sums_3C[0, 0].item()
        if count < 2:
            return False
        mean_C, square_C = self.sums_3C[1] / count, self.sums_3C[2] / count
        variance_C = (square_C - mean_C**2).clamp(min=0) * (count / (count - 1))  # running_var is the unbiased one
        self.layer.running_mean.copy_(mean_C)
        self.layer.running_var.copy_(variance_C)
        return True


@torch.no_grad()
def recompute_statistics(model: nn.Module, batches: Iterable[Any], forward: Callable) -> tuple[int, int]:
    """Give every batch-normalisation layer in training mode the statistics of its inputs over ``batches``.

    Layers normalise by the batch meanwhile, as in training, so what a layer sees is what it saw while it learned. Their
    statistics are exact over all elements of all batches, each element counting the same; every other buffer of the
    model (counters, warm-ups) keeps its value. Layers in evaluation mode (frozen) and layers that got no input are
    left alone.

    Args:
        model: in training mode.
        batches: in a distributed run, each process has its own and as many as the others.
        forward: called with each batch; runs the model.

    Returns:
        the numbers of layers that have new statistics, and of batches.
    """
    layers = [module for module in model.modules()
              if isinstance(module, _BatchNorm) and module.training and module.track_running_stats]
    if not layers:
        return 0, 0
    moments = [_Moments(layer) for layer in layers]
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    hooks = [one.layer.register_forward_pre_hook(lambda _, inputs, one=one: one.add(inputs[0])) for one in moments]
    count = 0
    try:
        for batch in batches:
            forward(batch)
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
    return sum([one.store() for one in moments]), count


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Recomputes the batch-normalisation statistics before a checkpoint is written and an evaluation begins.

    The batches are the first of the training stream, with its augmentation, the same every time: statistics are a
    function of the weights, and a resumed run has those of one that was never interrupted. Nothing is done where no
    batch-normalisation layer is trained.

    Args:
        batches: of each process; 200 of 16 images, as in detectron2.
        interval: iterations (epochs, in a schedule that counts those) between two; by default the loop's
            ``val_interval``. It is done after the last one in any case.
    """

    priority = "LOW"  # before CheckpointHook (VERY_LOW) and, as any hook after an iteration, before evaluation

    def __init__(self, batches: int = 200, interval: int | None = None) -> None:
        if batches < 1 or (interval is not None and interval < 1):
            raise UserError(f"PreciseBNHook: batches={batches}, interval={interval}: must be at least 1")
        self.batches = batches
        self.interval = interval

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Recompute, in a schedule that counts iterations."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            interval = self.interval or runner.train_loop.val_interval
            if self.every_n_train_iters(runner, interval) or self.is_last_train_iter(runner):
                self.recompute(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Recompute, in a schedule that counts epochs."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            interval = self.interval or runner.train_loop.val_interval
            if self.every_n_epochs(runner, interval) or self.is_last_train_epoch(runner):
                self.recompute(runner)

    def recompute(self, runner: Any) -> None:
        """Recompute the statistics of the runner's model now."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model

        def forward(numbered: tuple[int, Any]) -> None:
            number, batch = numbered
            seed_everything(runner.seed or 0, number, runner.rank)  # the sampling of RoIs
            model(**model.data_preprocessor(batch, True), mode="loss")

        layers, batches = recompute_statistics(model, enumerate(self._batches(runner)), forward)
        runner.logger.info(f"statistics of {layers} batch-normalisation layers recomputed over {batches} batches")

    def _batches(self, runner: Any) -> Iterator[Any]:
        """The first batches of the training stream; a dataset with fewer is gone through again."""
        return itertools.islice(itertools.chain.from_iterable(itertools.repeat(_from_the_start(runner))), self.batches)


def _from_the_start(runner: Any) -> DataLoader:
    """A loader of the runner's training data that begins where training began, beside the one that is in use."""
    loader, config = runner.train_dataloader, runner.cfg.train_dataloader
    sampler = NumberedSampler(config["sampler"], loader.dataset, runner.seed)
    if config.get("batch_sampler"):
        batches: BatchSampler = SkippableBatches(config["batch_sampler"], sampler, config["batch_size"])
    else:
        batches = BatchSampler(sampler, config["batch_size"], drop_last=loader.drop_last)
    return DataLoader(loader.dataset, batch_sampler=batches, num_workers=loader.num_workers,
                      collate_fn=loader.collate_fn, pin_memory=loader.pin_memory, worker_init_fn=loader.worker_init_fn)
