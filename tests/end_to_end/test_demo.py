"""The demo's recipe, stage by stage as a user runs it, on a few scenes and iterations."""

import json
import subprocess
import sys
import time

import pytest

SMALL = {"shapes": "--train 16 --val 8 --size 128", "train": "--cfg-options train_cfg.max_iters=3 image_size=(128,128)",
         "test": "--cfg-options image_size=(128,128)", "proposals": "--max-per-image 40"}
METHODS = ("vild_text", "vild")
GROUPS = {"base", "novel", "novel_combination", "novel_shape", "all"}


@pytest.fixture(scope="module")
def recipe(root, tmp_path_factory):
    """The demo's own stages, each with options that make it small."""
    path = tmp_path_factory.mktemp("recipe") / "small.py"
    path.write_text(
        f"import runpy\nvalues = runpy.run_path({str(root / 'configs/recipes/demo.py')!r})\n"
        f"small = {SMALL!r}\n"
        "name, seed, jobs, report = 'small', 0, 2, values['report']\n"
        "stages = [dict(s, command=s['command'] + ' ' + small.get(s['command'].split()[0], ''))\n"
        "          for s in values['stages']]\n")
    return path


@pytest.fixture(scope="module")
def finished(root, recipe, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("run") / "small"
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--work-dir", str(work_dir)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return work_dir, command, done.stdout


@pytest.mark.slow
def test_the_chain_ends_with_a_table_and_a_report(finished):
    work_dir, _, output = finished
    assert "ViLD-text" in output and "report.html" in output
    page = (work_dir / "report.html").read_text()
    assert "data:image/" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (work_dir / "picture.png").stat().st_size > 1000


@pytest.mark.slow
def test_report_json_has_the_promised_form(finished):
    report = json.loads((finished[0] / "report.json").read_text())
    assert {"stages", "total_seconds", "metrics", "clip_zero_shot"} <= set(report)
    assert all(stage["seconds"] >= 0 and stage["name"] for stage in report["stages"])
    assert {"base", "novel"} <= set(report["clip_zero_shot"])
    assert set(report["metrics"]) == set(METHODS)
    for figures in report["metrics"].values():
        assert set(figures) >= GROUPS
        for group in GROUPS:
            assert set(figures[group]) >= {"ap50", "mask_ap50", "top1_ap50", "accuracy"}
            assert all(value is None or 0 <= value <= 100 for value in figures[group].values())


@pytest.mark.slow
def test_a_second_run_does_nothing_again(finished, root):
    work_dir, command, _ = finished
    checkpoints = {m: (work_dir / m / "final.pth").stat().st_mtime_ns for m in METHODS}
    started = time.time()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {m: (work_dir / m / "final.pth").stat().st_mtime_ns for m in METHODS} == checkpoints
    assert not [p for p in (work_dir / "data").rglob("*.jpg") if p.stat().st_mtime > started]
