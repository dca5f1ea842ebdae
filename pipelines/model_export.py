"""Write a trained detector as one file, which ovd.load takes as it is.

    ovd export-model configs/shapes/vild.py work_dirs/demo/vild/final.pth --data-root work_dirs/demo/data \\
        --out work_dirs/vild.safetensors
    ovd export-model CONFIG CHECKPOINT --out FILE --calibration-images 0

The file has the weights (matrices in half precision), how the model is built and how images are prepared, the config's
classes, which CLIP embeds words, and what base classes teach about classes from boxes: how their scores compare with
those of names, and when a name does not fit its boxes. For that, --calibration-images of the training images are looked
at, and boxes of the base classes are drawn from --annotations. Loading the file runs no code that it brings, and needs
neither the config nor the dataset; a CLIP other than the project's own is fetched, or found, by its name.

The project's demo model, pretrained/shapes_vild.safetensors, was made by the first of these commands after `make demo`.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from ovd.stores.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/export_model.py``."""
    add = parser.add_argument
    add("config", help="the detector's config")
    add("checkpoint", help="its checkpoint")
    add("--out", required=True, metavar="FILE", help="the .safetensors to write")
    add("--style", default="vild", help="prompt templates that words are put into (%(default)s)")
    add("--shots", nargs="+", type=int, default=[1, 2, 3, 5, 10], metavar="K", help="numbers of boxes to learn for "
        "(1 2 3 5 10)")
    add("--methods", nargs="+", default=["prototype"], metavar="M", help="ways from boxes to a class to learn for "
        "(prototype)")
    add("--calibration-images", type=int, default=200, metavar="N", help="training images to learn from; 0: learn "
        "nothing (%(default)s)")
    add("--annotations", metavar="FILE", help="json to draw boxes of base classes from (default: the config's "
        "support_ann)")
    add("--images", metavar="DIR", help="the folder of its images (default: the config's train_prefix)")
    add("--overwrite", action="store_true", help="replace FILE")
    add("--data-root", help="use the dataset in this folder instead of the config's data_root")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/export_model.py`` and ``ovd export-model``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "checkpoint", "cfg_options")}
    export_model(args.config, args.checkpoint, options=args.cfg_options, **options)
    return 0


def export_model(config: str | Path, checkpoint: str | Path, out: str | Path, *, style: str = "vild",
                 shots: Sequence[int] = (1, 2, 3, 5, 10), methods: Sequence[str] = ("prototype",),
                 calibration_images: int = 200, annotations: str | Path | None = None,
                 images: str | Path | None = None, overwrite: bool = False, data_root: str | Path | None = None,
                 device: str = "auto", options: Sequence[str] | Mapping[str, Any] = ()) -> "Manifest":
    """Write the file and its manifest.

    Args:
        options: changes of the config.
        Others: as the options of the command line.

    Raises:
        UserError: wrong input; a file that is there already.
    """
    from functools import partial

    from ovd.apis.exporting import model_file
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.launch import choose_device
    from ovd.engine.marks import FLAG, marked
    from ovd.fewshot.detection.evaluation import CALIBRATION_SEED
    from ovd.stores.manifest import fingerprint
    from pipelines.fewshot_inputs import ShotSource

    start, out = time.perf_counter(), Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: write a .safetensors file")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out}: is there already; pass --overwrite to replace it")
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots) or calibration_images < 0:
        raise UserError("--shots needs numbers from 1, none twice; --calibration-images 0 or more")
    cfg = load_config(config, options, data_root)
    resolve_types(cfg)
    learning: dict[str, Any] = {}
    if calibration_images:
        source = ShotSource.read(cfg, annotations, images, replacement=True)
        learning = {"draw_base": partial(_draw, source), "image_root": source.image_root, "images": calibration_images}
    file = model_file(cfg, checkpoint, style=style, shots=sorted(shots), methods=methods, device=choose_device(device),
                      **learning)
    inputs = {"checkpoint": fingerprint(checkpoint), **({"clip": clip} if (clip := file.clip["fingerprint"]) else {})}
    settings = {"config": Path(config).name, "style": style, "shots": sorted(shots), "methods": list(methods),
                "calibration_images": calibration_images, "calibration_seed": CALIBRATION_SEED}
    manifest = file.save(out, settings, inputs, {FLAG: True} if marked([checkpoint]) else {})
    learned = f"{len(file.lessons)} lessons of {len(file.base_names)} base classes" if file.lessons else \
        "nothing learned about classes from boxes"
    print(f"{out}: {len(file.head)} classes, {out.stat().st_size / 1e6:.1f} MB, {learned}, "
          f"{time.perf_counter() - start:.0f} s")
    return manifest


def _draw(source: Any, names: Sequence[str], k: int, leave_out: frozenset[int]) -> Any:
    from ovd.fewshot.detection.evaluation import CALIBRATION_SEED

    return source.draw(names, k, CALIBRATION_SEED, leave_out)
