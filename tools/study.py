"""Write a study's results: see pipelines/study.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("study"))
