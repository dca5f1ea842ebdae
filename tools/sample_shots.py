"""Choose the support boxes (shots) of classes: see pipelines/shots."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("shots"))
