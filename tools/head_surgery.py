"""Change the classes of a trained detector by name: see pipelines/head_surgery.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("head-surgery"))
