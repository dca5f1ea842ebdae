"""Where a run computes: the device, and the processes it is spread over."""

import contextlib
import datetime
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

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


def on_main(function: Callable[[], Any]) -> Any:
    """What ``function()`` returns in the main process, in every process.

    A UserError there is raised there; the other processes leave quietly, so that it is reported once.
    """
    if not dist.is_initialized():
        return function()
    box: list[Any] = [None, None]
    error = None
    if is_main():
        try:
            box[0] = function()
        except UserError as mistake:
            error = mistake
            box[1] = True
    dist.broadcast_object_list(box, src=0)
    if error is not None:
        raise error
    if box[1]:
        raise SystemExit(2)
    return box[0]


def run_processes(argv: list[str]) -> int:
    """torchrun with the arguments ``argv``; returns the exit status of the process that failed first, or 0.

    What was wrong has been said by that process; torchrun's own report and traceback would bury it.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(argv)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 1
    return 0


def quiet() -> None:
    """Keep off the console what says nothing to a user: warnings of the libraries' own code."""
    warnings.filterwarnings("ignore", module=r"(mmengine|mmcv|mmdet|torch|torchvision)\b.*")
    with contextlib.redirect_stdout(io.StringIO()):
        import mmdet.datasets
        import mmdet.models  # noqa: F401 - each prints that a package it could use is not there


if __name__ == "__main__":
    sys.exit(run_processes(sys.argv[1:]))
