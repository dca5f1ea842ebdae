"""Embed the proposals of every image with CLIP: see pipelines/region_embeddings.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("embed-regions"))
