"""What can only be found by loading torch; runs as a process: ``python -m ovd.engine.doctor.probe WEIGHTS ...``.

It prints a line of json for each part as soon as it is found, so that a library that ends the process takes no more
than its own part along. Operators are called once each, on numbers whose result is known.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PATIENCE = 5  # seconds that nvidia-smi has


def machine() -> dict[str, Any]:
    """Torch, devices, mmcv's operators on each kind of device, faiss."""
    import torch

    import ovd  # noqa: F401 (provides operators where mmcv has none)

    found: dict[str, Any] = {"torch": torch.__version__, "cuda_build": torch.version.cuda,
                             "threads": torch.get_num_threads(), "devices": [], "driver": _driver()}
    try:
        if torch.cuda.is_available():
            found["devices"] = [_device(index) for index in range(torch.cuda.device_count())]
    except Exception as error:  # a driver that does not fit raises many kinds
        found["cuda_error"] = _line(error)
    found["operators"] = {name: _operators(name) for name in ("cpu", *(["cuda"] if found["devices"] else []))}
    found["operators_from"] = _origin()
    found["faiss"] = _faiss()
    return found


def clips(paths: list[str]) -> dict[str, Any]:
    """Of each weights file the CLIP that it is: its fingerprint, widths and sides, or what is wrong with it."""
    sys.modules.setdefault("wandb", None)  # timm imports it where it is installed, which takes most of a second
    from ovd.clip.towers import OPENAI_NAMES, load_clip

    found: dict[str, Any] = {}
    for path in paths:
        try:
            clip = load_clip(path)
            found[path] = {"fingerprint": clip.fingerprint, "width": clip.embed_dim, "side": clip.image_size,
                           "openai": OPENAI_NAMES.get(path)}
        except Exception as error:  # of a broken file: that is what is asked
            found[path] = {"error": _line(error)}
    return found


def _device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {"name": properties.name, "capability": f"{properties.major}.{properties.minor}", "memory": total,
            "free": free, "built_for": _built_for(properties.major, properties.minor)}


def _built_for(major: int, minor: int) -> bool:
    """Whether this torch has code for such a device: of its own generation, or to be compiled for a later one."""
    import torch

    codes = torch.cuda.get_arch_list()
    own = [code for code in codes if code.startswith("sm_")]
    later = [code for code in codes if code.startswith("compute_")]

    def number(code: str) -> int:
        return int("".join(filter(str.isdigit, code)))

    here = 10 * major + minor
    return any(number(code) // 10 == major and number(code) <= here for code in own) or any(
        number(code) <= here for code in later)


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([tool, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=PATIENCE)
        return done.stdout.split("\n")[0].strip() or None
    return None


def _origin() -> str:
    try:
        import mmcv._ext as extension

        return getattr(extension, "__file__", None) or "torchvision, by ovd.ops"
    except Exception as error:
        return f"broken: {_line(error)}"


def _operators(device: str) -> dict[str, str]:
    """Operator -> "" where it does what it should, else what is wrong."""
    try:
        calls = _calls(device)
    except Exception as error:
        return {"import mmcv.ops": _line(error)}
    result = {}
    for name, call in calls.items():
        try:
            result[name] = "" if call() else "gives a wrong result"
        except Exception as error:  # an operator that is not compiled raises whatever it likes
            result[name] = _line(error)
    return result


def _calls(device: str) -> dict[str, Callable[[], bool]]:
    import torch
    from mmcv import ops

    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30.0]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    ones = torch.ones(1, 1, 16, 16, device=device)
    rois = torch.tensor([[0, 2, 2, 10, 10.0]], device=device)
    logits, labels = torch.zeros(2, 3, device=device), torch.tensor([0, 2], device=device)
    kernel = torch.randn(2, 1, 3, 3, device=device)
    offset = torch.zeros(1, 18, 14, 14, device=device)
    plain = torch.nn.functional.conv2d(ones, kernel)

    def pooled(pool: Callable) -> bool:
        image = ones.clone().requires_grad_()
        out = pool(image)
        out.sum().backward()
        return bool(torch.allclose(out, torch.ones_like(out))) and bool(image.grad.abs().sum() > 0)

    return {
        "nms": lambda: ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 2],
        "soft_nms": lambda: len(ops.soft_nms(boxes, scores, 0.3)[1]) == 3,
        "nms_match": lambda: len(ops.nms_match(torch.cat([boxes, scores[:, None]], 1).cpu(), 0.5)) == 2,
        "roi_align": lambda: pooled(lambda image: ops.roi_align(image, rois, (2, 2), 1.0, 2, "avg", True)),
        "roi_pool": lambda: pooled(lambda image: ops.roi_pool(image, rois, (2, 2), 1.0)),
        "sigmoid_focal_loss": lambda: bool(torch.isfinite(ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, None,
                                                                                "mean"))),
        "softmax_focal_loss": lambda: bool(torch.isfinite(ops.softmax_focal_loss(logits, labels, 2.0, 0.25, None,
                                                                                "mean"))),
        "deform_conv": lambda: bool(torch.allclose(ops.deform_conv2d(ones, offset, kernel, 1, 0, 1, 1, 1), plain,
                                                   atol=1e-4)),
        "modulated_deform_conv": lambda: bool(torch.allclose(ops.modulated_deform_conv2d(
            ones, offset, torch.ones(1, 9, 14, 14, device=device), kernel, None, 1, 0, 1, 1, 1), plain, atol=1e-4)),
    }


def _faiss() -> dict[str, Any]:
    try:
        import faiss
        import numpy as np

        index = faiss.IndexFlatIP(4)
        index.add(np.eye(4, dtype=np.float32))
        right = index.search(np.eye(4, dtype=np.float32), 1)[1][:, 0].tolist() == [0, 1, 2, 3]
        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        return {"version": faiss.__version__, "gpus": gpus, "works": right}
    except Exception as error:
        return {"error": _line(error)}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]


if __name__ == "__main__":
    print(json.dumps({"machine": machine()}), flush=True)
    print(json.dumps({"clips": clips(sys.argv[1:])}), flush=True)
