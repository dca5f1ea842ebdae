"""Processes that load torch, and what they and the system say of this machine."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovd.engine.doctor.findings import Finding, size
from ovd.engine.doctor.packages import SETUP

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 120  # seconds that a probe has
LITTLE, NOTHING = 5e9, 5e8  # bytes of free space that deserve a note, and with which no stage gets far


class Probe:
    """A process of :mod:`ovd.engine.doctor.probe` that has begun; :meth:`result` waits for it.

    Args:
        weights: files of which it is to say which CLIP they are.
    """

    def __init__(self, weights: Sequence[str] = ()) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen([sys.executable, "-m", "ovd.engine.doctor.probe", *weights],
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                         env=environment)

    def result(self) -> dict[str, dict[str, Any]]:
        """What it found, by part (``machine``, ``clips``); ``{"error": ...}`` for what it did not come to."""
        try:
            out, errors = self._process.communicate(timeout=PATIENCE)
            ended = f"status {self._process.returncode}: {(errors.strip().splitlines() or ['said nothing'])[-1][:300]}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
            ended = f"no answer within {PATIENCE} s"
        found: dict[str, dict[str, Any]] = {"machine": {"error": ended}, "clips": {"error": ended}}
        for line in out.splitlines():
            with suppress(ValueError, TypeError):  # libraries print too
                found |= json.loads(line)
        return found


def devices(found: dict[str, Any]) -> list[Finding]:
    """Torch, GPUs and faiss, from what the probe ``machine`` found."""
    if "error" in found:
        return [Finding("torch", f"cannot be loaded ({found['error']})", "broken", SETUP, found)]
    torch = f"{found['torch']}, built for " + (f"CUDA {found['cuda_build']}" if found["cuda_build"] else "processors")
    findings = [Finding("torch", f"{torch}; {found['threads']} thread{'s' * (found['threads'] > 1)}",
                        facts={key: found[key] for key in ("torch", "cuda_build", "driver")})]
    for number, device in enumerate(found["devices"]):
        text = (f"{device['name']}, capability {device['capability']}, {size(device['free'])} of "
                f"{size(device['memory'])} free, driver {found['driver'] or 'unknown'}")
        usable = device["built_for"]
        findings.append(Finding(f"cuda:{number}", text if usable else f"{text}: this torch has no code for it",
                                "ok" if usable else "broken", "" if usable else "install a torch for this GPU: "
                                "https://pytorch.org/get-started", device))
    if not found["devices"]:
        why = found.get("cuda_error") or (f"driver {found['driver']}, but torch cannot use it" if found["driver"] else
                                          "none")
        broken = bool(found.get("cuda_error") or found["driver"])
        findings.append(Finding("gpu", f"{why}; everything runs on the processor" if not broken else why,
                                "broken" if broken else "ok",
                                "install a driver for CUDA " + str(found["cuda_build"]) if broken else ""))
    faiss = found["faiss"]
    if "error" in faiss or not faiss.get("works"):
        findings.append(Finding("faiss", faiss.get("error", "finds wrong neighbours"), "broken",
                                "pip install --force-reinstall --no-deps faiss-cpu", faiss))
    else:
        gpus = f"{faiss['gpus']} GPUs" if faiss["gpus"] else "processor only"
        idle = bool(found["devices"]) and not faiss["gpus"]
        findings.append(Finding("faiss", f"{faiss['version']}, {gpus}", "note" if idle else "ok",
                                'for indices on the GPU: pip install -e ".[gpu]", see README.md' if idle else "",
                                faiss))
    return findings


def operators(found: dict[str, Any]) -> list[Finding]:
    """Mmcv's operators, each called once on each kind of device."""
    if "error" in found:
        return []
    origin = found["operators_from"]
    findings = []
    for device, results in found["operators"].items():
        failed = {name: problem for name, problem in results.items() if problem}
        facts = {"device": device, "from": origin, "failed": failed}
        if not failed:
            findings.append(Finding(device, f"{len(results)} of mmcv's operators give the right numbers (from "
                                            f"{origin})", facts=facts))
            continue
        told = "; ".join(f"{name}: {problem}" for name, problem in list(failed.items())[:3])
        findings.append(Finding(device, f"{len(failed)} of mmcv's {len(results)} operators fail (from {origin}): "
                                        f"{told}", "broken", "pip install --force-reinstall --no-deps onedl-mmcv  "
                                "(without its compiled operators, ovd provides them)", facts))
    return findings


def memory_and_disk(folders: Sequence[str | Path]) -> list[Finding]:
    """Cores, memory, and the free space of file systems on which the folders, and temporary files, are."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = _memory("MemTotal")
    free = _memory("MemAvailable")
    findings = [Finding("processor", f"{usable} cores" + (f", {size(free)} of {size(total)} memory free" if total and
                                                          free else ""), facts={"cores": usable, "memory": total})]
    seen: dict[int, str] = {}
    for folder in (*map(Path, folders), Path(tempfile.gettempdir())):
        there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
        try:
            device, space = there.stat().st_dev, shutil.disk_usage(there).free
        except (AttributeError, OSError) as error:
            findings.append(Finding(f"disk of {folder}", f"cannot be asked ({error})", "note"))
            continue
        writable = os.access(there, os.W_OK)
        if device in seen and writable:
            continue
        seen[device] = str(folder)
        state = "ok" if space > LITTLE else "note" if space > NOTHING else "broken"
        text = f"{size(space)} free" + ("" if writable else "; nothing can be written there")
        findings.append(Finding(f"disk of {folder}", text, state, "" if state == "ok" else "free some space, or name "
                                "folders on another disk (--data-root, --work-dir, TMPDIR)",
                                {"free": space, "writable": writable}))
    return findings


def _memory(key: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(key + ":"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
