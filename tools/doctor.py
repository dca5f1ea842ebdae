"""What is installed, what is there and what is missing: see pipelines/doctor.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("doctor"))
