"""Run a recipe, a chain of stages: see pipelines/recipe.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("run"))
