"""Find regions by words or by an example: see pipelines/search.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("search"))
