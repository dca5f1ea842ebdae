"""Evaluate a checkpoint: AP of boxes and masks for base, novel and all classes, in one generalised pass.

Prints a table and writes metrics.json to the work directory. The vocabulary may be another than the one of training
(--class-head). See ovd/evaluation/metric.py for what each figure is.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.engine.options import add_run_arguments, add_smoke_argument
from ovd.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/test.py``."""
    parser.add_argument("config", help="the config file")
    parser.add_argument("checkpoint", help="the checkpoint, such as work_dirs/<config name>/final.pth")
    parser.add_argument("--eval", nargs="+", metavar="KIND", help="bbox and / or segm (default: what the config says)")
    parser.add_argument("--class-head", metavar="FILE", help="detect the classes of the split with this class head")
    parser.add_argument("--diagnostics", action="store_true",
                        help="also AP50 with one label a box, and accuracy at ground-truth boxes")
    parser.add_argument("--dense-clip", nargs="?", const="", metavar="CLIP", help="let a frozen CLIP have a say, from "
                        "its own map of each image: shapes, RN50, an open_clip NAME:TAG or a weights file (default: "
                        "the config's regions.pretrained); see docs/dense_clip.md")
    parser.add_argument("--dense-alpha", type=float, metavar="A", help="the CLIP's weight for base classes (0.35)")
    parser.add_argument("--dense-beta", type=float, metavar="B", help="the CLIP's weight for other classes (0.65)")
    parser.add_argument("--dense-scales", type=float, nargs="+", metavar="S",
                        help="factors on the image's size, a map each (1 1.5 2)")
    parser.add_argument("--dense-class-head", metavar="FILE", help="class head of the dense CLIP, where it is not the "
                        "one of the detector's class head")
    parser.add_argument("--cached-regions", metavar="DIR", help="look at the boxes of this region store of the "
                        "evaluation images, and let CLIP's embeddings of them have a say; see docs/clip_on_crops.md")
    parser.add_argument("--cached-weights", type=float, nargs=2, metavar=("A", "B"),
                        help="CLIP's weight then for base classes and for the others (0.3333 0.6667)")
    parser.add_argument("--tta", type=float, nargs="*", metavar="FACTOR",
                        help="test-time augmentation: each image also mirrored, and in these sizes relative to the "
                             "test pipeline's (0.75 1 1.5; default: 1)")
    parser.add_argument("--out", metavar="FILE", help="write the detections: .json (COCO results) or .pkl (per image)")
    parser.add_argument("--show-dir", metavar="DIR", help="write pictures of detections beside the ground truth")
    parser.add_argument("--show-limit", type=int, default=50, metavar="N", help="how many pictures (default 50)")
    parser.add_argument("--show-score", type=float, default=0.3, metavar="S", help="lowest score drawn (default 0.3)")
    add_smoke_argument(parser)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/test.py`` and ``ovd test``."""
    dense = DenseOptions(args.dense_clip, args.dense_alpha, args.dense_beta, args.dense_scales, args.dense_class_head)
    cached = CachedOptions(args.cached_regions, args.cached_weights)
    evaluate(args.config, args.checkpoint, kinds=args.eval, class_head=args.class_head, diagnostics=args.diagnostics,
             dense_clip=dense, cached_clip=cached, tta=args.tta, out=args.out, show_dir=args.show_dir,
             show_limit=args.show_limit, show_score=args.show_score, options=args.cfg_options,
             data_root=args.data_root, work_dir=args.work_dir, device=args.device, launcher=args.launcher,
             smoke=args.smoke)
    return 0


@dataclass(frozen=True)
class DenseOptions:
    """A frozen CLIP's opinion on regions at test (:mod:`ovd.models.dense_clip`), as the command line says it.

    Attributes:
        pretrained: the CLIP; "" for the config's ``regions.pretrained``, None for none but the config's own.
        alpha, beta: its weight for base classes and for the others.
        scales: factors on the image's size.
        class_head: class head file of that CLIP.
    """

    pretrained: str | None = None
    alpha: float | None = None
    beta: float | None = None
    scales: Sequence[float] | None = None
    class_head: str | Path | None = None

    def apply(self, cfg: "Config") -> None:
        """Put it into the config's model; what is None stays what it is there, or takes its default.

        Raises:
            UserError: options without a CLIP, a CLIP that is not named, a model without class scores to fuse with.
        """
        dense = dict(cfg.model.get("dense_clip") or {})
        if self.pretrained is None and not dense:
            given = [name for name in ("alpha", "beta", "scales", "class_head") if getattr(self, name) is not None]
            if given:
                raise UserError(f"--dense-{given[0].replace('_', '-')}: there is no dense CLIP; pass --dense-clip")
            return
        if "rcnn" not in (cfg.model.get("test_cfg") or {}):
            raise UserError(f"--dense-clip: {cfg.filename}: the model has no test_cfg.rcnn")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"--dense-{name} {value:g}: needs a number from 0 to 1")
        regions = cfg.get("regions") or {}
        if self.pretrained:
            dense.update(pretrained=self.pretrained, model=None)
        elif not dense:
            if not regions.get("pretrained"):
                raise UserError(f"--dense-clip: {cfg.filename} names no CLIP (regions.pretrained); name one, such as "
                                "--dense-clip RN50")
            dense.update(pretrained=regions["pretrained"], model=regions.get("model"))
        if self.scales is not None:
            dense["scales"] = tuple(self.scales)
        if self.class_head is not None:
            dense.update(class_embeddings=str(Path(self.class_head).absolute()), data_root="")
        cfg.model["dense_clip"] = {"type": "DenseClipScore", **dense}
        for key, value in (("rescore_alpha", self.alpha), ("rescore_beta", self.beta)):
            if value is not None:
                cfg.model["test_cfg"]["rcnn"][key] = value


@dataclass(frozen=True)
class CachedOptions:
    """Cached regions in place of the detector's proposals, and CLIP's opinion on them (:mod:`ovd.models.cached_clip`).

    Attributes:
        regions: the region store of the evaluation images; None for none.
        weights: CLIP's weight for base classes and for the others; None for 1/3 and 2/3, as in ViLD's ensemble.
    """

    regions: str | Path | None = None
    weights: Sequence[float] | None = None

    def apply(self, cfg: "Config") -> None:
        """Put it into the config's model and test pipeline.

        Raises:
            UserError: weights without a store, or a dense CLIP beside it; a config that cannot take the regions.
        """
        if self.regions is None:
            if self.weights is not None:
                raise UserError("--cached-weights: there are no cached regions; pass --cached-regions DIR")
            return
        if cfg.model.get("dense_clip"):
            raise UserError("--cached-regions and --dense-clip are each the one further opinion: leave one out")
        dataset = cfg.test_dataloader.dataset
        if "rcnn" not in (cfg.model.get("test_cfg") or {}) or "pipeline" not in dataset:
            raise UserError(f"--cached-regions: {cfg.filename}: needs model.test_cfg.rcnn and a pipeline in "
                            "test_dataloader.dataset")
        load, *steps, pack = dataset.pipeline  # regions right after the image, so that each step is known to move them
        dataset["pipeline"] = [load, {"type": "LoadRegions"}, *steps, {**pack, "type": "PackRegions"}]
        dataset["region_store"] = str(Path(self.regions).absolute())
        cfg.model["cached_clip"] = True
        alpha, beta = self.weights or (1 / 3, 2 / 3)
        cfg.model["test_cfg"]["rcnn"].update(rescore_alpha=alpha, rescore_beta=beta)


def evaluate(config: str | Path, checkpoint: str | Path, *, kinds: Sequence[str] | None = None,
             class_head: str | Path | None = None, diagnostics: bool = False,
             dense_clip: DenseOptions = DenseOptions(), cached_clip: CachedOptions = CachedOptions(),
             tta: Sequence[float] | None = None, out: str | Path | None = None,
             show_dir: str | Path | None = None, show_limit: int = 50, show_score: float = 0.3,
             options: Sequence[str] | Mapping[str, Any] = (), data_root: str | Path | None = None,
             work_dir: str | Path | None = None, device: str = "auto", launcher: str = "none",
             smoke: bool = False) -> dict[str, float]:
    """Evaluate ``checkpoint`` on the test set of ``config``.

    Args:
        config, options, data_root, work_dir: see :func:`ovd.engine.config.load_config`.
        checkpoint: a checkpoint of the config's model.
        kinds: what to evaluate of ``bbox`` and ``segm``; by default what the config's evaluator says.
        class_head: a class head file with the split's classes, instead of the config's.
        diagnostics: also one-label AP50 and accuracy at ground-truth boxes.
        dense_clip: a frozen CLIP's further opinion, see :class:`DenseOptions`.
        cached_clip: the same from cached embeddings, see :class:`CachedOptions`.
        tta: see each image mirrored too, and in these sizes relative to the test pipeline's (none: its own).
        out: file for the detections: ``.json`` or ``.pkl``.
        show_dir: folder for pictures of detections beside the ground truth.
        show_limit, show_score: how many pictures, and the lowest score that is drawn.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: ``pytorch`` in a process that torchrun started.
        smoke: a few images, to see that it runs (:mod:`ovd.engine.smoke`).

    Returns:
        ``{"base/ap50": per cent, ...}``, the figures that are also in ``<work_dir>/metrics.json``; a smoke test has
        none.

    Raises:
        UserError: wrong input.
    """
    from ovd.engine.checkpoints import read_checkpoint
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.conversion.usage import check_usage
    from ovd.engine.hooks import PicturesHook
    from ovd.engine.launch import choose_device, is_main, on_main, quiet, start_processes, stop_processes
    from ovd.engine.marks import FLAG, marked, warn
    from ovd.engine.preflight import check_class_heads, check_inputs, find_inputs
    from ovd.engine.runner import DetectionRunner
    from ovd.engine.smoke import FLAG as SMOKE
    from ovd.engine.smoke import announced, smoke_testing, smoked
    from ovd.engine.smoke import warn as warn_of_smoke
    from ovd.evaluation.results import save_detections, save_metrics
    from ovd.evaluation.table import ap_table

    quiet()
    from ovd.models.dense_clip import check_dense_clip
    from ovd.models.views import ViewsHook, check_views
    start = time.perf_counter()
    torch_device = choose_device(device)
    start_processes(launcher, torch_device)

    def configure() -> "Config":
        cfg = load_config(config, options, data_root, work_dir)
        resolve_types(cfg)
        _configure(cfg, checkpoint, kinds, class_head, diagnostics)
        dense_clip.apply(cfg)
        cached_clip.apply(cfg)
        if tta is not None:
            check_views(tta)
            if diagnostics or cached_clip.regions is not None:
                raise UserError("--tta: diagnostics and cached regions are of an image as it is; leave one of them out")
            if "rcnn" not in (cfg.model.get("test_cfg") or {}):
                raise UserError(f"--tta: {cfg.filename}: the model has no test_cfg.rcnn")
            cfg.model.test_cfg.rcnn["diagnostics"] = False
        if smoke:
            smoke_testing(cfg)
        return cfg

    def prepare() -> dict[str, bool]:
        cfg = configure()
        if out is not None and Path(out).suffix not in (".json", ".pkl"):
            raise UserError(f"--out {out}: write a .json or a .pkl file")
        if smoke and (out is not None or show_dir is not None):
            raise UserError("--smoke: its detections mean nothing, so none are written: leave out --out and --show-dir")
        check_usage(checkpoint, read_checkpoint(checkpoint), cfg.model)
        inputs = find_inputs(cfg, ("model", "test_dataloader"))
        check_inputs(inputs)
        check_class_heads(cfg.model)
        if cfg.model.get("dense_clip"):
            check_dense_clip(cfg.model)
        origins = [checkpoint, *(entry.path for entry in inputs)]
        sources, smokes = marked(origins), smoked(origins)
        warn(sources, "The figures serve")
        warn_of_smoke(smokes)
        return ({FLAG: True} if sources else {}) | ({SMOKE: True} if smoke or smokes else {})

    def work() -> dict[str, float]:
        marks = on_main(prepare)
        cfg = configure()
        runner = DetectionRunner.from_config(cfg, torch_device, launcher)
        if tta is not None:
            runner.register_hook(ViewsHook(tta))
        if show_dir is not None:
            runner.register_hook(PicturesHook(show_dir, show_limit, show_score))
        metrics = runner.test()
        if smoke:
            metrics = {}
        if is_main():
            metric = runner.test_evaluator.metrics[0]
            if out is not None:
                save_detections(out, metric.detections, metric.truth)
            path = save_metrics(cfg.work_dir, metrics, marks)
            if not smoke:
                print(ap_table(metrics))
            print(f"{len(metric.detections)} images in {time.perf_counter() - start:.0f} s: {path}")
        return metrics

    try:
        with announced("ovd test", smoke and is_main()):
            return work()
    finally:
        stop_processes()


def _configure(cfg: "Config", checkpoint: str | Path, kinds: Sequence[str] | None, class_head: str | Path | None,
               diagnostics: bool) -> None:
    """Put what the command line says into the config, and leave out what belongs to training."""
    from ovd.engine.config import walk
    from ovd.evaluation.average_precision import check_kinds

    if not cfg.get("model"):
        raise UserError(f"{cfg.filename}: nothing to test: the config has no model")
    if not {"roi_head", "bbox_head"} & set(cfg.model):
        raise UserError(f"{cfg.filename}: has no classes to test; ovd proposals measures the recall of a "
                        "proposal network")
    for section in ("test_dataloader", "test_evaluator"):
        if not cfg.get(section):
            raise UserError(f"{cfg.filename}: nothing to test: the config has no {section}")
    cfg.load_from, cfg.resume = str(checkpoint), False
    for _, part in walk(cfg.model):
        if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
            part["init_cfg"] = None
    if kinds is not None:
        check_kinds(kinds)
        cfg.test_evaluator.metric = tuple(kinds)
    if class_head is not None:
        users = [part for _, part in walk(cfg.model) if "class_head" in part]
        if not users:
            raise UserError(f"--class-head: {cfg.filename}: the model takes no class head")
        for part in users:
            part["class_head"] = str(Path(class_head).absolute())
    if diagnostics:
        rcnn = (cfg.model.get("test_cfg") or {}).get("rcnn")
        if rcnn is None:
            raise UserError(f"--diagnostics: {cfg.filename}: the model has no test_cfg.rcnn")
        rcnn["diagnostics"] = True
    for section in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "val_dataloader", "val_cfg",
                    "val_evaluator"):
        cfg[section] = None
