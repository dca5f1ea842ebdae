"""Build the index of a region store: see pipelines/index.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("build-index"))
