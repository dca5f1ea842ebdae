"""A command whose output nobody reads any more (``ovd ... | head``) ends quietly, and no other broken pipe does."""

import os
import signal
import subprocess
import sys

import pytest

from pipelines.cli import run_stage


@pytest.mark.parametrize("words", [["--help"], ["classes", "show", "gadget"]])
@pytest.mark.parametrize("streams", [["stdout"], ["stdout", "stderr"]])
def test_a_reader_that_has_gone_is_no_error(words, streams, root, tmp_path):
    if "show" in words:
        words = [*words, "--registry", str(tmp_path)]  # an error, which goes to the other stream
    reading, writing = os.pipe()
    os.close(reading)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict.fromkeys(streams, writing)}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *words], cwd=root, text=True, timeout=60, **pipes)
    os.close(writing)
    unread = "stderr" in streams or "--help" in words
    assert done.returncode == (128 + signal.SIGPIPE if unread else 2)
    if "stderr" not in streams:
        assert len(done.stderr.splitlines()) == (0 if unread else 1)


def test_another_broken_pipe_is_not_hidden(monkeypatch):
    def broken(args):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("pipelines.voc_to_coco.run", broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        run_stage("voc-to-coco", ["--sets", "x", "--out", "y.json"])
