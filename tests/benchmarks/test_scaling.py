"""benchmarks/scaling.py: it measures every stage once, and goes on where it was."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_stages_are_measured_and_kept(root, tmp_path):
    command = [sys.executable, "benchmarks/scaling.py", "--images", "6", "--processes", "1", "--scratch", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(figures) == 8 and all(figure["value"] > 0 for figure in figures)
    costs = [json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines()]
    assert [cost["stage"] for cost in costs] == ["render", "proposals", "embed", "nothing left"]
    assert all(cost["cpu"] > 0 and cost["driver"] > 10 << 20 and cost["disk"] > 0 for cost in costs)
    assert costs[2]["files"] == 4  # plan, ids, manifest and a shard
    assert not (tmp_path / "6").exists() and (tmp_path / "scaling.png").stat().st_size > 1000
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.stdout == done.stdout and "embed, 6 images" not in again.stderr
