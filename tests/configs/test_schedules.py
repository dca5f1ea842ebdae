"""Schedules are those of the projects that they are named after."""

from pathlib import Path

import pytest
from mmengine.config import Config

SCHEDULES = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "schedules"


@pytest.mark.parametrize(("name", "batch", "lr", "weight_decay", "end", "decays", "gamma", "warmup"), [
    ("sgd_1x", 16, 0.02, 1e-4, 12, [8, 11], 0.1, (0.001, 500)),  # mmdet
    ("sgd_2x_mmdet", 16, 0.02, 1e-4, 24, [16, 22], 0.1, (0.001, 500)),
    ("sgd_12e", 16, 0.02, 2.5e-5, 12, [8, 10], 0.1, (0.001, 500)),  # DetPro
    ("sgd_20e_detpro", 16, 0.02, 2.5e-5, 20, [16], 0.1, (0.001, 500)),
    ("sgd_20e", 16, 0.02, 1e-4, 20, [16, 19], 0.1, (0.001, 500)),  # OpenSet-dev
    ("sgd_2x_oadp", 16, 0.02, 2.5e-5, 24, [16, 19], 0.1, (0.001, 500)),  # OADP
    ("sgd_40k", 16, 0.02, 2.5e-5, 40_000, [30_000], 0.1, (0.001, 500)),
    ("sgd_180k", 256, 0.32, 4e-5, 180_000, [162_000, 171_000, 175_500], 0.1, (0.0032 / 0.32, 1000)),  # ViLD
    ("spark_90k", 16, 2.5e-4, 1e-4, 90_000, [60_000, 80_000], 0.25, (0.01, 1000)),  # SparK
])
def test_a_schedule_is_its_projects(name, batch, lr, weight_decay, end, decays, gamma, warmup):
    cfg = Config.fromfile(SCHEDULES / f"{name}.py")
    optimizer, (linear, steps) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.lr, optimizer.weight_decay) == (lr, weight_decay)
    assert cfg.auto_scale_lr.base_batch_size == batch and not cfg.auto_scale_lr.enable
    assert (linear.start_factor, linear.end) == (pytest.approx(warmup[0]), warmup[1]) and not linear.by_epoch
    assert (steps.milestones, steps.gamma, steps.end) == (decays, gamma, end)
    assert steps.by_epoch == ("max_epochs" in cfg.train_cfg)
    assert end == cfg.train_cfg.get("max_epochs", cfg.train_cfg.get("max_iters"))
