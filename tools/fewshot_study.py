"""Write the results of a few-shot study: see pipelines/fewshot_study.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("fewshot-study"))
