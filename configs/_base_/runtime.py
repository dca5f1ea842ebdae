"""What every run has: log, checkpoints to resume from, progress bar, seed.

A checkpoint is written every epoch, or every tenth of a schedule that counts iterations; the last two are kept.
"""

from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook

from ovd.engine.hooks import ProgressHook, ResumePointsHook

default_scope = "mmdet"
default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook), timer=dict(type=IterTimerHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False), param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=ResumePointsHook, interval=None, max_keep_ckpts=2), progress=dict(type=ProgressHook))
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
randomness = dict(seed=3407)
find_unused_parameters = False
load_from = None  # a checkpoint to take weights from that fit the model
custom_hooks = []
