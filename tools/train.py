"""Train a detector or a proposal network: see pipelines/train.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("train"))
