"""Evaluate a checkpoint: see pipelines/test.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("test"))
