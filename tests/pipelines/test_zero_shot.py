"""Accuracy by group, and the stage as a command: the embedded CLIP names the objects of scenes it has not seen."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.zero_shot import accuracy_by_group


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_accuracy_equals_counting(pairs):
    groups = {"base": [0, 1, 2], "novel": [3, 4], "all": [0, 1, 2, 3, 4]}
    labels, predicted = (torch.tensor(column) for column in zip(*pairs))
    result = accuracy_by_group(predicted, labels, groups)
    for group, members in groups.items():
        hits = [guess == label for label, guess in pairs if label in members]
        assert (group in result) == bool(hits)
        if hits:
            assert result[group] == pytest.approx(100 * sum(hits) / len(hits), abs=0.006)


def ovd(*words, **options):
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *map(str, words)], capture_output=True, text=True,
                          **options)


def test_the_embedded_clip_names_novel_and_base_objects(tmp_path):
    data = tmp_path / "data"
    assert ovd("shapes", "--data-root", data, "--train", 1, "--val", 30, "--seed", 9).returncode == 0
    split = data / "annotations" / "split.json"
    head = tmp_path / "head.safetensors"
    done = ovd("class-embeddings", "vild", "--dataset", split, "--pretrained", "shapes", "--out", head)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "accuracy.json"
    command = ("zero-shot", "--data-root", data, "--class-head", head, "--out", out)
    done = ovd(*command)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(out.read_text())
    assert set(accuracy) == {"base", "novel", "novel_combination", "novel_shape", "all"}
    assert accuracy["base"] >= 95 and accuracy["novel"] >= 95
    assert "up to date" in ovd(*command).stdout
    other = ovd("zero-shot", "--data-root", data, "--class-head", tmp_path / "none.safetensors", "--out", out)
    assert other.returncode == 2 and other.stderr.startswith("error:") and "none.safetensors" in other.stderr
