"""Suggest support for a class: see pipelines/support.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("find-support"))
