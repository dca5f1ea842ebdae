"""Learn DetPro's prompts, or apply learned ones to other class names: see pipelines/prompt_learning."""

import sys

from pipelines.cli import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("learn-prompts"))
