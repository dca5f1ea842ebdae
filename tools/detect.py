"""Find things in your own pictures: see pipelines/detect/__init__.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("detect"))
