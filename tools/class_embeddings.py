"""CLIP text embeddings of class names: see pipelines/class_embeddings.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("class-embeddings"))
