"""Run a recipe: a chain of stages, such as configs/recipes/demo.py.

Stages run as processes, side by side where they do not need each other, and write their logs to <work dir>/logs. Stages
that are done and whose inputs are what they were are skipped, so an interrupted recipe, started again, goes on where it
was. At the end the report is written (ovd report).
"""

import argparse
import subprocess
import sys

from pipelines.running.console import Console, duration
from pipelines.running.execution import run_recipe
from pipelines.running.journal import Journal, locked
from pipelines.running.recipe_file import load_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/run_recipe.py``."""
    parser.add_argument("recipe", help="the recipe, a Python file")
    parser.add_argument("--work-dir", help="where results and logs go (default: work_dirs/<recipe's name>)")
    parser.add_argument("--seed", type=int, help="instead of the recipe's; another one gives another default work dir")
    parser.add_argument("--overwrite", action="store_true", help="do everything again, whatever is there")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/run_recipe.py`` and ``ovd run``."""
    recipe = load_recipe(args.recipe, args.work_dir, args.seed)
    console = Console()
    with locked(recipe.work_dir):
        console.line(f"{recipe.name}: {len(recipe.stages)} stages, logs in {recipe.work_dir / 'logs'}")
        if not run_recipe(recipe, args.overwrite, console):
            console.line("the same command goes on with this stage; with --overwrite, everything is done again")
            return 1
        console.line(f"all stages done, {duration(Journal.read(recipe.work_dir).total_seconds)} in total")
        if not recipe.report:
            return 0
        command = [sys.executable, "-m", "pipelines.cli", "report", str(recipe.work_dir)]
        return subprocess.run(command, check=False).returncode
