"""Write a trained detector as one file: see pipelines/model_export.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("export-model"))
