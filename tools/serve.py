"""Serve the page of pictures, words and boxes: see pipelines/serve.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("serve"))
