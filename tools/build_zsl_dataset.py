"""Write base-only training and generalised evaluation annotation files; see pipelines/splits.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("build-zsl"))
