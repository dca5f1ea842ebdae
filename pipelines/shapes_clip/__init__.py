"""Train the small CLIP of the embedded benchmark on rendered crops and captions of all its classes.

It learns the novel classes too, as a CLIP trained on the web would know them: detectors never see their boxes. The
result, pretrained/shapes_clip.safetensors, is part of the project; nobody has to run this. Scenes are drawn from a seed
of their own, so no scene of the benchmark is seen here.
"""

import argparse
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="weights file (default: pretrained/shapes_clip.safetensors)")
    parser.add_argument("--scenes", type=int, default=6000, help="scenes to take crops from (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=1200, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=256, help="crops a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak rate of AdamW (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, crops and weights (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true",
                        help="image tower in bfloat16: twice as fast where the processor has such instructions")
    parser.add_argument("--workers", type=int, default=1, help="processes that cut crops (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/train_shapes_clip.py`` and ``ovd shapes-clip``."""
    from ovd.clip.towers import SHAPES_WEIGHTS
    from pipelines.shapes_clip.training import train

    started, out = time.time(), args.out or SHAPES_WEIGHTS
    train(out, scenes=args.scenes, iterations=args.iterations, batch_size=args.batch_size,
          learning_rate=args.learning_rate, seed=args.seed, bf16=args.bf16, workers=args.workers)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {(time.time() - started) / 60:.1f} min")
