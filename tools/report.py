"""Write the report of a recipe's run: see pipelines/report.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("report"))
