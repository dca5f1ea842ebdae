"""Where a run computes: the device, and the processes it is spread over."""

import contextlib
import datetime
import io
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist

from ovd.errors import UserError


def choose_device(wanted: str = "auto") -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu`` or ``cuda``; in a torchrun job, the GPU of the local rank."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("--device cuda: no CUDA device was found; use --device cpu")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"process {local_rank} of this machine has no GPU: it has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


def start_processes(launcher: str, device: torch.device, timeout: float = 1800.0) -> None:
    """Join the process group that torchrun set up: NCCL between GPUs, gloo between CPU processes.

    Args:
        launcher: ``none`` (a single process) or ``pytorch`` (started by torchrun).
        device: where this process computes.
        timeout: seconds after which a process that waits for the others gives up.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launcher == "none" or dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise UserError("--launcher pytorch: not started by torchrun; use tools/dist_train.sh or tools/dist_test.sh")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend=backend, timeout=datetime.timedelta(seconds=timeout))


def stop_processes() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process reports and writes: rank 0, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def agree(value: Any) -> Any:
    """The main process's ``value``, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def quiet() -> None:
    """Keep off the console what says nothing to a user: warnings of the libraries' own code."""
    warnings.filterwarnings("ignore", module=r"(mmengine|mmcv|mmdet|torch|torchvision)\b.*")
    with contextlib.redirect_stdout(io.StringIO()):
        import mmdet.datasets
        import mmdet.models  # noqa: F401 - each prints that a package it could use is not there
