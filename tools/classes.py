"""Classes of your own from words and boxes: see pipelines/classes/__init__.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("classes"))
