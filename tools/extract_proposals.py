"""Run a trained RPN over every image of a data set, into a store keyed by image id."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("proposals"))
