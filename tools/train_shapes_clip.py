"""Train the small CLIP of the embedded benchmark; see pipelines/shapes_clip."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("shapes-clip"))
