"""Look after stores of proposals and regions: see pipelines/store/__init__.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("store"))
