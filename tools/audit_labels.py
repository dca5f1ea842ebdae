"""Audit annotations: see pipelines/audit.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("audit"))
