"""The command-line options that training and testing share."""

import argparse


def add_smoke_argument(parser: argparse.ArgumentParser) -> None:
    """``--smoke`` (:mod:`ovd.engine.smoke`)."""
    parser.add_argument("--smoke", action="store_true",
                        help="only see whether it runs: a few images, numbers that mean nothing, and a folder of its "
                             "own (<work dir>_smoke)")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir``, ``--data-root``, ``--cfg-options``, ``--device``, ``--launcher``."""
    parser.add_argument("--work-dir", help="where the run's files go (default: work_dirs/<config name>)")
    parser.add_argument("--data-root", help="use the dataset in this folder instead of the config's data_root")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change values of the config: train_dataloader.batch_size=4; +KEY=VALUE adds a key")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="where to compute (default: a GPU where there is one)")
    parser.add_argument("--launcher", choices=("none", "pytorch"), default="none",
                        help="pytorch: one of the processes that torchrun started (tools/dist_*.sh do that)")
