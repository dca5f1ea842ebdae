"""Devices by name, as people of PyTorch write them."""

import torch

from ovd.engine.launch import choose_device
from ovd.errors import UserError


def chosen_device(device: str | torch.device) -> torch.device:
    """A device by name, which is there.

    Raises:
        UserError: An unknown name, or no such GPU.
    """
    if device in ("auto", "cpu", "cuda"):
        return choose_device(str(device))
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise UserError(f"device {device!r}: give auto, cpu, cuda, or cuda:1 and the like") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device}: there are {torch.cuda.device_count()} CUDA devices; use cpu, or another")
    return place
