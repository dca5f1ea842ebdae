"""Convert PASCAL VOC's XML annotations into a COCO-style json; see pipelines/voc_to_coco.py."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("voc-to-coco"))
