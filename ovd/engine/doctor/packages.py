"""Python and the installed packages, against what the project needs and what its lock has."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ovd.engine.doctor.findings import Finding

LOCK = Path(__file__).resolve().parents[3] / "requirements.lock"
SETUP = "make setup" if LOCK.with_name("Makefile").is_file() else "install ovd again"
SUPPORTED = ((3, 10), (3, 13))  # from the first to below the second
# either of the two provides faiss; only headless OpenCV works without a screen
ALTERNATIVES = {"faiss-cpu": ("faiss-gpu", "faiss-gpu-cu12")}
# the second is the one to keep
CLASHES = (("faiss-cpu", "faiss-gpu"), ("opencv-python", "opencv-python-headless"), ("mmdet", "onedl-mmdetection"),
           ("mmcv", "onedl-mmcv"), ("mmengine", "onedl-mmengine"))
NAMED = ("torch", "torchvision", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", "open-clip-torch", "numpy")


def look_at_packages(lock: Path = LOCK) -> list[Finding]:
    """Findings of Python, of what is needed, of extras, and of packages that take each other's place."""
    findings = [_python()]
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        wanted = [Requirement(text) for text in requires("ovd") or ()]
    except (ImportError, PackageNotFoundError) as error:
        return [*findings, Finding("packages", f"cannot be compared with what is needed ({error})", "broken",
                                   SETUP)]
    locked = _locked(lock)
    needed, differ, fine = [], [], 0
    for one in wanted:
        if one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(one.name)
        found = next((v for other in (name, *ALTERNATIVES.get(name, ())) if (v := _version(other))), None)
        if found is None:
            needed.append(Finding(name, f"is not installed; {one.specifier or 'any version'} is needed", "missing",
                                  f'pip install "{one.name}{one.specifier}"  (or: {SETUP})'))
        elif not one.specifier.contains(found, prereleases=True):
            needed.append(Finding(name, f"is {found}; {one.specifier} is needed", "broken",
                                  f'pip install "{one.name}{one.specifier}"  (or: {SETUP})'))
        elif name in locked and _public(found) != locked[name]:
            differ.append(f"{name} {found} (lock: {locked[name]})")
        else:
            fine += 1
    versions = {name: v for name in NAMED if (v := _version(name))}
    text = ", ".join(f"{name} {v}" for name, v in versions.items())
    findings += [*needed, Finding("packages", f"{text}; {fine} of {fine + len(differ) + len(needed)} as "
                                              f"{'in the lock' if locked else 'needed'}", facts={"versions": versions})]
    if differ:
        findings.append(Finding("lock", f"other versions than those that were tested: {', '.join(differ)}", "note",
                                SETUP))
    extras = [name for name in ("gradio", "ray", "tensorboard", "wandb", "mkdocs-material", "supervision")
              if _version(name)]
    findings.append(Finding("extras", ", ".join(f"{name} {_version(name)}" for name in extras) or "none"))
    return findings + _clashes()


def _python() -> Finding:
    low, high = SUPPORTED
    fits = low <= sys.version_info[:2] < high
    text = f"{platform.python_version()} in {sys.prefix}"
    return Finding("python", text if fits else f"{text}; needed is {low[0]}.{low[1]} to {high[0]}.{high[1] - 1}",
                   "ok" if fits else "broken", "" if fits else f"{SETUP}, with PYTHON=python3.11", {
                       "version": platform.python_version(), "platform": platform.platform()})


def _clashes() -> list[Finding]:
    found = []
    for pair in CLASHES:
        if all(map(_version, pair)):
            found.append(Finding(pair[0], f"and {pair[1]} are both installed and overwrite each other", "broken",
                                 f"pip uninstall -y {pair[0]} && pip install --force-reinstall --no-deps "
                                 f"{pair[1]}=={_public(_version(pair[1]))}"))
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
    except Exception:  # metadata that are damaged in whatever way
        return None


def _public(found: str) -> str:
    """Without the part that says how it was built: ``2.11.0+cu130`` is ``2.11.0``."""
    return found.partition("+")[0]


def _locked(path: Path) -> dict[str, str]:
    """Package -> version that the lock installs here; empty where there is no lock."""
    from packaging.markers import InvalidMarker, Marker
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        requirement, _, marker = line.partition(" ; ")
        name, equals, pinned = requirement.partition("==")
        try:
            applies = not marker or Marker(marker).evaluate()
        except InvalidMarker:
            continue
        if equals and applies:
            found[canonicalize_name(name)] = _public(pinned.strip())
    return found


