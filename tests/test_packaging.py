"""Set-up and the face of the project: the lock, conda's file, make's set-up script, command lines, the README."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.cli import STAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = ("3.10", "3.11", "3.12")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def locked(python: str) -> dict[str, str]:
    """Package -> version that the lock installs on Linux with this Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux",
                   "platform_machine": "x86_64"}
    found: dict[str, str] = {}
    for line in lock_lines():
        requirement, _, marker = line.partition(" ; ")
        if not marker or Marker(marker).evaluate(environment):
            name, version = requirement.split("==")
            assert canonicalize_name(name) not in found, f"{name} is locked twice for Python {python}"
            found[canonicalize_name(name)] = version
    return found


def test_every_line_of_the_lock_is_a_pin():
    for line in lock_lines():
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+)?", line), line


@pytest.mark.parametrize("python", SUPPORTED)
def test_the_lock_has_what_the_project_asks_for(python):
    versions, extras = locked(python), project()["optional-dependencies"]
    wanted = [Requirement(line) for line in project()["dependencies"] + extras["dev"]]
    own = [requirement for requirement in wanted if requirement.name == "ovd"]
    others = [Requirement(line) for requirement in own for extra in requirement.extras for line in extras[extra]]
    for requirement in [requirement for requirement in wanted if requirement not in own] + others:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), str(requirement)


def test_the_lock_leaves_out_what_needs_a_screen_or_is_abandoned():
    for python in SUPPORTED:
        assert not {"opencv-python", "imaug", "imagecorruptions", "imagecorruptions-imaug"} & set(locked(python))


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert python.removeprefix("python=") in SUPPORTED
    assert pip == ["-r requirements.lock", "-e ."]
    assert "PIP_NO_DEPS=1 conda env create" in (ROOT / "environment.yml").read_text()


def test_data_files_of_the_packages_are_installed_with_them():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    tracked = [path for package in ("ovd", "pipelines") for path in (ROOT / package).rglob("*")
               if path.suffix in (".json", ".css", ".txt", ".safetensors")]
    assert tracked
    for path in tracked:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert any(path.match(pattern) for pattern in patterns.get(package, ())), f"{path} is in no package-data"


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0" in text and "END OF TERMS AND CONDITIONS" in text


def test_help_of_the_command_line_loads_nothing_heavy():
    code = ("import sys, pipelines.cli; pipelines.cli.main(['--help']); "
            "sys.exit(', '.join({'torch', 'mmdet', 'numpy', 'mmcv'} & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in STAGES)


def test_an_unknown_stage_is_named_with_a_hint():
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "proposal"], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: no stage named 'proposal'; did you mean proposals?\n"


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_has_help(script, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "tools" / script, "--help"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:") and len(done.stdout.splitlines()) > 5


def test_every_stage_has_a_script_in_tools():
    scripts = "".join(path.read_text() for path in (ROOT / "tools").glob("*.py"))
    assert [name for name in STAGES if f'run_stage("{name}"' not in scripts] == []


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "tools").glob("*.sh")))
def test_shell_scripts_can_be_started(script):
    path = ROOT / "tools" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("document", sorted(str(path.relative_to(ROOT)) for pattern in ("*.md", "*/*.md")
                                            for path in ROOT.glob(pattern) if path.parts[-2] != "work_dirs"))
def test_what_a_document_names_exists(document):
    text = (ROOT / document).read_text()
    if "migration" in document:  # the last column of a table is ours, the others are another project's
        text = "\n".join(line.rstrip(" |").rpartition(" | ")[2] for line in text.splitlines())
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if not link.startswith("http")]
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    made = set(re.findall(r"<!-- file: (\S+) -->", text))  # by a worked example, which tests/docs runs
    files = set(re.findall(r"\b(?:tools|configs|pipelines|ovd)/[\w/.-]{2,}\.(?:py|sh)\b", text)) - made
    missing += [name for name in sorted(files) if not (ROOT / name).is_file()]
    stages = re.findall(r"^\s*ovd ([a-z][a-z-]*)|`ovd ([a-z][a-z-]*)", text, flags=re.MULTILINE)
    missing += [f"ovd {name}" for pair in stages for name in pair
                if name and name not in STAGES and f"pipelines/{name}.py" not in made]
    assert missing == []


# ---- tools/setup.sh, with stand-ins for Python and pip -------------------------------------------------------------

FAKE_PYTHON = r"""#!/usr/bin/env bash
# Stands in for Python in tools/setup.sh, and writes down what it was asked to do.
case "$*" in
    -) cat >/dev/null; cat "$0.problem" 2>/dev/null ;;
    --version) echo "Python 3.11.7" ;;
    "-m venv --clear .venv")
        echo venv >>log; rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip --version") ;;
    *"pip --disable-pip-version-check install"*)
        echo "pip ${*: -1}" >>log; sleep "$(cat slow 2>/dev/null || echo 0)"; test ! -e broken; exit ;;
    *) echo "unexpected: $*" >>log; exit 9 ;;
esac
true
"""


@pytest.fixture
def clone(tmp_path):
    """A clone with what set-up reads, and stand-ins ``bin/python3`` and ``bin/python3.12``."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    (tmp_path / "requirements.lock").write_text("x==1\n")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "bin").mkdir()
    for name in ("python3", "python3.12", "python3.11", "python3.10"):
        (tmp_path / "bin" / name).write_text(FAKE_PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def set_up(clone: Path, **environment) -> subprocess.CompletedProcess:
    env = {"PATH": f"{clone / 'bin'}:/usr/bin:/bin", "HOME": str(clone), **environment}
    return subprocess.run(["bash", "tools/setup.sh"], cwd=clone, capture_output=True, text=True, timeout=60, env=env)


def asked(clone: Path) -> list[str]:
    """What Python was asked to do since the last call."""
    file = clone / "log"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_set_up_installs_once(clone):
    done = set_up(clone)
    assert done.returncode == 0, done.stderr
    assert asked(clone) == ["venv", "pip requirements.lock", "pip ."]
    again = set_up(clone)
    assert (again.returncode, again.stdout, asked(clone)) == (0, "", [])


def test_set_up_brings_an_environment_up_to_date_when_the_lock_changes(clone):
    set_up(clone)
    asked(clone)
    (clone / "requirements.lock").write_text("x==2\n")
    assert set_up(clone).returncode == 0
    assert asked(clone) == ["pip requirements.lock", "pip ."]
    assert set_up(clone).stdout == ""


def test_set_up_starts_over_after_a_failure(clone):
    (clone / "broken").touch()
    done = set_up(clone)
    assert done.returncode == 2 and "the installation stopped" in done.stderr
    asked(clone)
    (clone / "broken").unlink()
    assert set_up(clone).returncode == 0
    assert asked(clone) == ["venv", "pip requirements.lock", "pip ."]


def test_set_up_starts_over_after_a_kill(clone):
    (clone / "slow").write_text("60")
    env = {"PATH": f"{clone / 'bin'}:/usr/bin:/bin"}
    process = subprocess.Popen(["bash", "tools/setup.sh"], cwd=clone, env=env, start_new_session=True,
                               stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while "pip requirements.lock" not in ((clone / "log").read_text() if (clone / "log").exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (clone / "slow").unlink()
    asked(clone)
    assert set_up(clone).returncode == 0
    assert asked(clone) == ["venv", "pip requirements.lock", "pip ."]


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_two_set_ups_at_once_install_once(clone):
    (clone / "slow").write_text("0.5")
    env = {"PATH": f"{clone / 'bin'}:/usr/bin:/bin"}
    both = [subprocess.Popen(["bash", "tools/setup.sh"], cwd=clone, env=env, stdout=subprocess.DEVNULL)
            for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert asked(clone) == ["venv", "pip requirements.lock", "pip ."]


def test_set_up_looks_for_a_python_that_serves(clone):
    (clone / "bin" / "python3.problem").write_text("is Python 3.13\n")
    assert set_up(clone).returncode == 0
    for name in ("python3.12", "python3.11", "python3.10"):
        (clone / "bin" / f"{name}.problem").write_text("has no venv module\n")
    shutil.rmtree(clone / ".venv")
    asked(clone)
    done = set_up(clone)
    assert done.returncode == 2 and asked(clone) == []
    assert done.stderr.startswith("error: needs Python 3.10, 3.11 or 3.12 with venv, but python3 is Python 3.13; ")
    assert len(done.stderr.splitlines()) == 1
    assert "nothere is not there" in set_up(clone, PYTHON="nothere").stderr


# ---- tools/readme_figures.py ---------------------------------------------------------------------------------------


def report_of(seed: int, value: float) -> dict:
    figures = {"ap50": value, "mask_ap50": value, "top1_ap50": value, "accuracy": None}
    return {"seed": seed, "metrics": {"vild_text": {"novel_shape": figures}, "vild": {"novel_shape": figures}},
            "clip_zero_shot": {"base": 99.0}, "total_seconds": 700.0, "peak_memory_mb": 1500.0,
            "machine": {"cores": 2, "processor": "P", "torch": "2.11.0"},
            "stages": [{"name": "rpn", "seconds": 61.0, "peak_memory_mb": 1500.0}]}


def test_figures_are_written_between_the_marks(tmp_path):
    for seed, value in ((0, 60.0), (1, 70.0)):
        (tmp_path / f"{seed}.json").write_text(json.dumps(report_of(seed, value)))
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    command = [sys.executable, ROOT / "tools" / "readme_figures.py", "--readme", readme]
    subprocess.run([*command, tmp_path / "0.json", tmp_path / "1.json"], check=True, timeout=60)
    text = readme.read_text()
    assert "| new shapes | 65.0 → **65.0**<br><sub>60.0 to 70.0 → 60.0 to 70.0</sub> |" in text
    assert "| rpn | 1 min 01 s | 1,500 MB |" in text
    subprocess.run([*command, tmp_path / "0.json"], check=True, timeout=60)
    assert "| new shapes | 60.0 → **60.0** |" in readme.read_text()
    (tmp_path / "empty.json").write_text("{}")
    done = subprocess.run([*command, tmp_path / "empty.json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: no 'metrics'")
