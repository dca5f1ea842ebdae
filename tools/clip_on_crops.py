"""CLIP on cropped proposals, without training; see pipelines/clip_on_crops.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("clip-on-crops"))
