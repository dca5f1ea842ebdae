"""Few-shot classification: see pipelines/fewshot_classify.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("fewshot-classify"))
