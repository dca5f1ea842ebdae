"""mmengine's Runner with what a long training run needs: exact resuming, safe and whole checkpoints, CPU processes."""

import copy
import itertools
import logging
import os
from functools import cached_property
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

import ovd.engine.weights  # noqa: F401  (init_cfg type="Pretrained" loads whole files or none)
from ovd.engine.checkpoints import load_exactly, load_matching, read_checkpoint
from ovd.engine.config import registered
from ovd.engine.hooks import GuardedAmpOptimWrapper, GuardedOptimWrapper, NonFiniteLossError, WatchBatchHook
from ovd.engine.result_lines import ResultLinesHook
from ovd.engine.sampling import NumberedSampler, ReplayableDataset, SkippableBatches
from ovd.errors import UserError

_RUNNERS = itertools.count()


class RecordedConfig(Config):
    """The config as a run's log, folder and checkpoints record it: formatted once, which takes half a second."""

    @cached_property
    def pretty_text(self) -> str:
        """Python source."""
        return super().pretty_text


class DetectionRunner(Runner):
    """Differences from mmengine's Runner:

    - augmentations and the sampling of RoIs depend on the seed and the iteration only, so a resumed run equals one that
      was never interrupted;
    - checkpoints are read without unpickling objects, must fit the model, and appear on disk whole or not at all;
    - a loss that is not finite stops training before the weights change, and the images of the batch are named;
    - processes may compute on CPUs; the console shows progress, and everything else is in the log file;
    - every evaluation leaves a line in ``results.jsonl`` in the work directory.

    Several processes average their gradients. Each normalises its losses by its own counts (anchors, RoIs, positives,
    regions), as in mmdet: N processes of one image equal one process that accumulates N batches of one image, and are
    close to one batch of N images.

    Args:
        device: where the model computes.
        kwargs: as for mmengine's Runner.
    """

    def __init__(self, *args, device: torch.device, **kwargs) -> None:
        self.device = device
        super().__init__(*args, **kwargs)
        self.register_hook(ResultLinesHook())

    @classmethod
    def from_config(cls, cfg: Config, device: torch.device, launcher: str = "none") -> "DetectionRunner":
        """Build the runner of a config, with the sections that the config has."""
        cfg = copy.deepcopy(cfg)
        sections = ("train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg",
                    "auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator",
                    "default_hooks", "custom_hooks", "load_from", "visualizer", "log_processor")
        loop = (cfg.get("train_cfg") or {}).get("type", "EpochBasedTrainLoop")
        by_epoch = "Iter" not in getattr(loop, "__name__", loop)
        cfg.log_processor = {"by_epoch": by_epoch, **(cfg.get("log_processor") or {})}
        # mmengine shares logs and message hubs between runners of one name; its own has a resolution of one second
        name = f"{Path(cfg.filename or 'run').stem}_{next(_RUNNERS)}"
        with registered(cfg):
            return cls(device=device, model=cfg.model, work_dir=cfg.work_dir, launcher=launcher,
                       cfg=RecordedConfig({**cfg.to_dict(), "config_file": cfg.filename}, filename=cfg.filename),
                       experiment_name=name, resume=cfg.get("resume", False), env_cfg=cfg.get("env_cfg", {}),
                       randomness=cfg.get("randomness", {"seed": None}),
                       default_scope=cfg.get("default_scope", "mmdet"), **{name: cfg.get(name) for name in sections})

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, seed: int | None = None,
                         diff_rank_seed: bool = False) -> DataLoader:
        """As mmengine's, with draws that are numbered and seeded (:mod:`ovd.engine.sampling`)."""
        if isinstance(dataloader, dict):
            dataloader = {**dataloader, "dataset": {"type": ReplayableDataset, "dataset": dataloader["dataset"],
                                                    "seed": seed or 0},
                          "sampler": {"type": NumberedSampler, "sampler": dataloader["sampler"]}}
            if batches := dataloader.get("batch_sampler"):
                dataloader["batch_sampler"] = {"type": SkippableBatches, "batches": batches}
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """A logger that writes everything to the log file and only errors to the console."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return logger

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        """As mmengine's, guarded against losses that are not finite."""
        guarded = {"OptimWrapper": GuardedOptimWrapper, "AmpOptimWrapper": GuardedAmpOptimWrapper}
        if isinstance(optim_wrapper, dict):
            kind = optim_wrapper.get("type", OptimWrapper)
            name = kind if isinstance(kind, str) else kind.__name__
            optim_wrapper = {**optim_wrapper, "type": guarded.get(name, kind)}
        return super().build_optim_wrapper(optim_wrapper)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As mmengine's, also for CPU processes, where SyncBN (CUDA only) becomes BN with per-process statistics."""
        model = model.to(self.device)
        if self.device.type == "cuda" and self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        model = revert_sync_batchnorm(model)
        if not self.distributed:
            return model
        return MMDistributedDataParallel(model, broadcast_buffers=False,
                                         find_unused_parameters=self.cfg.get("find_unused_parameters", False))

    def train(self) -> nn.Module:
        """Train, or go on with training."""
        self.register_hook(WatchBatchHook())
        try:
            return super().train()
        except NonFiniteLossError as error:
            batch = next(hook for hook in self.hooks if isinstance(hook, WatchBatchHook))
            raise UserError(f"{error} in iteration {self.iter + 1}, before it changed the weights; "
                            f"the batch's images: {', '.join(batch.images)}. Look at their annotations, "
                            f"or lower the learning rate or lengthen the warm-up") from error

    def load_checkpoint(self, filename: str | os.PathLike, map_location: str = "cpu", strict: bool = True,
                        revise_keys: list | None = None) -> dict:
        """Read a checkpoint into the model; ``strict=False`` takes what fits (weights to start from)."""
        checkpoint = read_checkpoint(filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if strict:
            load_exactly(model, checkpoint["state_dict"], filename)
        else:
            taken, refused = load_matching(model, checkpoint["state_dict"])
            if not taken:
                raise UserError(f"load_from: {filename}: no tensor in it fits this config's model")
            self.logger.info(f"{taken} tensors from {filename}; of another shape: {', '.join(refused) or 'none'}")
            if self.rank == 0:
                print(f"load_from: {taken} of the model's {len(model.state_dict())} tensors are from {filename}"
                      + (f"; {len(refused)} of its own have another shape" if refused else ""))
        self._has_loaded = True
        return checkpoint

    def load_or_resume(self) -> None:
        """Go on from ``load_from`` (``resume=True``), or take from it the weights that fit (training), or load it."""
        if self._has_loaded or self._load_from is None:
            return
        if self._resume:
            self.resume(self._load_from, map_location="cpu")
            self._skip_batches()
        else:
            self.load_checkpoint(self._load_from, strict=self._train_loop is None)
        self._has_loaded = True

    def _skip_batches(self) -> None:
        """Take a loop that counts iterations to its place in a stream of batches; mmengine would load and drop them."""
        batches = self.train_dataloader.batch_sampler
        if isinstance(self.train_loop, IterBasedTrainLoop) and isinstance(batches, SkippableBatches):
            batches.skip(self.iter)
            self.train_loop.fast_forward_on_resume = True  # mmengine's word for: has been done

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """As mmengine's, through a temporary file."""
        part = Path(out_dir, f"{filename}.part")
        super().save_checkpoint(out_dir, part.name, *args, **kwargs)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, Path(out_dir, filename))
