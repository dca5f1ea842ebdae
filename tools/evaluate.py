"""Evaluate a file of detections: see pipelines/evaluate.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("evaluate"))
