"""ovd report as a command, on a run that was really trained and tested, and on what is none."""

import shutil
import subprocess
import sys

import pytest
from tiny_world import write_caches, write_world

from pipelines.cli import run_stage
from pipelines.test import evaluate
from pipelines.train import train


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Work directories of a run of ten iterations: trained only, and trained and tested with its detections."""
    folder = tmp_path_factory.mktemp("report")
    data = write_world(folder / "data", ["red", "green", "blue"], ["yellow", "violet"])
    write_caches(data)
    config = root / "tests" / "tiny_vild.py"
    train(config, data_root=data, work_dir=folder / "untested", device="cpu")
    shutil.copytree(folder / "untested", folder / "tested")
    evaluate(config, folder / "tested" / "final.pth", data_root=data, work_dir=folder / "tested", device="cpu",
             out=folder / "tested" / "detections.json")
    return folder


def ovd(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pipelines.cli", "report", *map(str, words)], capture_output=True,
                          text=True, timeout=120)


def test_a_run_and_two_runs(trained):
    done = ovd(trained / "tested")
    assert done.returncode == 0, done.stderr
    assert "trained to iteration 10, tested" in done.stdout and "all AP50" in done.stdout
    html = (trained / "tested" / "report.html").read_text()
    assert all(f'id="{name}"' in html for name in ("figures", "training", "errors", "classes", "pictures", "settings"))
    assert "sha256" in html or "final.pth" in html

    done = ovd(trained / "tested", trained / "untested", "--pictures", 0)
    assert done.returncode == 0, done.stderr
    assert "not there: figures" in done.stdout and "tests/tiny_vild.py" in done.stdout
    assert f"--out {trained / 'untested' / 'detections.json'}" in done.stdout
    html = (trained / "comparison.html").read_text()
    assert html.count('class="line c1"') >= 5 and "data:image" not in html


def test_the_command_that_a_report_names_makes_what_is_missing(trained, capsys):
    """The words after "ovd test" are run as they stand."""
    shutil.copytree(trained / "untested", trained / "again")
    assert run_stage("report", [str(trained / "again"), "--out", str(trained / "a.html")]) == 0
    command = next(line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("ovd test"))
    assert run_stage("test", [*command[2:], "--device", "cpu"]) == 0
    capsys.readouterr()
    assert run_stage("report", [str(trained / "again"), "--out", str(trained / "a.html")]) == 0
    assert "ovd test" not in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "nowhere: no such folder"),
    (["."], "no run and no recipe left anything here"),
    ([".", "--out", "page.pdf"], "name an .html file"),
    ([".", "--pictures", "-1"], "--pictures -1"),
])
def test_a_users_mistake_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_stage("report", words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
