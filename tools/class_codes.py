"""Make classes from a few boxes with a trained detector: see pipelines/class_codes.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("class-codes"))
