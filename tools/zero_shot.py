"""Accuracy of a CLIP on ground-truth crops; see pipelines/zero_shot.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("zero-shot"))
