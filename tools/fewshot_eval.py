"""Evaluate classes that are added by name, by boxes, or by both: see pipelines/fewshot_eval.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("fewshot-eval"))
