"""Convert a checkpoint between key layouts: see pipelines/checkpoint_conversion.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("convert-checkpoint"))
