"""Evaluate classes that are added to a trained detector by name, by k boxes, or by both, over shots and seeds.

    ovd fewshot-eval configs/shapes/vild.py work_dirs/vild/final.pth --methods text prototype text+prototype:weights
    ovd fewshot-eval CONFIG CHECKPOINT --methods codes --shots 1 2 3 5 10 --seeds 0 1 2 3 4

A method is text (the class's name), made-up (a word that means nothing), a source that makes a class of boxes
(prototype, matching, tip, tip-f, linear, cosine, negative-margin, or codes of the detector's hypernetwork), or
TEXT+SOURCE:RULE with a rule by which both become one: weights, logits, max, or trusted, which is weights where the
name fits the boxes, and boxes alone where it does not. Base classes are what training made them.

Shots of the novel classes are drawn from --annotations, nested in k; each set is written to OUT/shots and can be loaded
again (--shots-files). Every image is passed through the detector once, whatever the number of methods, shots and seeds.
Added classes are scored independently of each other and have detections of their own (--scores independent), so base
classes keep their detections to the bit. What boxes alone make is calibrated on base classes only.

Writes OUT/fewshot.json (a row for each method and number of shots), OUT/fewshot.png, and the shots.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

    from ovd.fewshot.shots import ShotSet
    from ovd.stores.manifest import Manifest

STAGE = "fewshot-eval"
METHODS = ("text", "prototype", "text+prototype:weights")


@dataclass(frozen=True)
class Plan:
    """What is evaluated.

    Attributes:
        methods, shots, seeds: As on the command line.
        scores: ``independent`` or ``softmax``.
        calibration_images: Training images whose regions calibrate added classes; 0 for none.
        images: Evaluate the first so many images; None for all.
        min_size: Of support boxes, in pixels.
        replacement: Whether classes with fewer boxes than shots may have some twice.
    """

    methods: tuple[str, ...] = METHODS
    shots: tuple[int, ...] = (1, 2, 3, 5, 10)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    scores: str = "independent"
    calibration_images: int = 200
    images: int | None = None
    min_size: float = 8.0
    replacement: bool = False
    smoke: bool = False

    def __post_init__(self) -> None:
        for name in ("methods", "shots", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name} {' '.join(map(str, values))}: needs at least one, and none twice")
        if min(self.shots) < 1:
            raise UserError(f"--shots {min(self.shots)}: needs one or more")
        if min(self.seeds) < 0 or self.calibration_images < 0:
            raise UserError("--seeds and --calibration-images need 0 or more")
        if not 0 <= self.min_size < math.inf:
            raise UserError(f"--min-size {self.min_size:g}: give pixels, 0 or more")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/fewshot_eval.py``."""
    add = parser.add_argument
    add("config", help="the detector's config")
    add("checkpoint", help="its checkpoint")
    add("--methods", nargs="+", default=list(METHODS), metavar="M", help="how classes are added "
        f"({' '.join(METHODS)})")
    add("--shots", nargs="+", type=int, default=[1, 2, 3, 5, 10], metavar="K", help="boxes a class (1 2 3 5 10)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="S", help="of the shots (0 1 2 3 4)")
    add("--annotations", metavar="FILE", help="json in which novel classes have boxes (default: the config's "
        "support_ann)")
    add("--images", metavar="DIR", help="the folder of its images (default: the config's train_prefix)")
    add("--shots-files", nargs="+", metavar="FILE", help="shots that were written before, one file a seed, in place of "
        "drawing them")
    add("--class-head", metavar="FILE", help="classes by name (default: the config's class_head)")
    add("--scores", choices=("independent", "softmax"), default="independent", help="softmax: added classes compete "
        "with all others, as in ovd test (%(default)s)")
    add("--calibration-images", type=int, default=200, metavar="N", help="training images whose regions of base "
        "classes calibrate added ones; 0: no calibration (%(default)s)")
    add("--base-shots", type=int, metavar="K", help="make the base classes of K boxes too, by the detector's "
        "hypernetwork (default: they are what training made them)")
    add("--with-replacement", action="store_true", help="classes with fewer boxes than shots have some twice")
    add("--min-size", type=float, default=8.0, metavar="PX", help="least side of a support box (%(default)s)")
    add("--out", metavar="DIR", help="where results go (default: work_dirs/<config name>_fewshot)")
    add("--save-heads", action="store_true", help="also write every class head to OUT/heads")
    add("--smoke", action="store_true", help="a few images, one number of shots, one seed: a check that all runs, "
        "whose numbers mean nothing")
    add("--overwrite", action="store_true", help="evaluate again")
    add("--data-root", help="use the dataset in this folder instead of the config's data_root")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/fewshot_eval.py`` and ``ovd fewshot-eval``."""
    plan = Plan(tuple(args.methods), tuple(args.shots), tuple(args.seeds), args.scores, args.calibration_images,
                min_size=args.min_size, replacement=args.with_replacement)
    if args.smoke:
        plan = smoke_plan(plan)
    fewshot_eval(args.config, args.checkpoint, plan, annotations=args.annotations, images=args.images,
                 shots_files=args.shots_files, class_head=args.class_head, base_shots=args.base_shots,
                 out=args.out, save_heads=args.save_heads, overwrite=args.overwrite, data_root=args.data_root,
                 device=args.device, options=args.cfg_options)
    return 0


def smoke_plan(plan: Plan) -> Plan:
    """The same methods on next to nothing."""
    return replace(plan, shots=plan.shots[:1], seeds=plan.seeds[:1], calibration_images=min(plan.calibration_images, 8),
                   images=8, smoke=True)


def fewshot_eval(config: str | Path, checkpoint: str | Path, plan: Plan = Plan(), *,
                 annotations: str | Path | None = None, images: str | Path | None = None,
                 shots_files: Sequence[str | Path] | None = None, class_head: str | Path | None = None,
                 base_shots: int | None = None, out: str | Path | None = None, save_heads: bool = False,
                 overwrite: bool = False, data_root: str | Path | None = None, device: str = "auto",
                 options: Sequence[str] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
    """Evaluate ``plan`` and write the results.

    Args:
        options: changes of the config.
        Others: as the options of the command line.

    Returns:
        The rows of fewshot.json.

    Raises:
        UserError: wrong input; a class with too few boxes; methods that the detector cannot do.
    """
    from ovd.engine.launch import choose_device, quiet

    quiet()
    import ovd.models  # noqa: F401 (its types are what configs name)
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.marks import FLAG, marked, warn
    from ovd.engine.smoke import FLAG as SMOKE
    from ovd.engine.smoke import announced, smoked
    from ovd.engine.smoke import warn as warn_of_smoke
    from ovd.fewshot.detection.detector import ShotDetector
    from ovd.fewshot.detection.evaluation import evaluate_methods
    from ovd.fewshot.detection.methods import Method
    from ovd.fewshot.detection.results import rows, table
    from ovd.stores.class_registry import load_classes
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint
    from pipelines.fewshot_inputs import ShotSource, check_apart, load_sets, made_up, of_config, split_of

    start = time.perf_counter()
    methods = [Method.parse(written) for written in plan.methods]
    cfg = load_config(config, options, data_root)
    resolve_types(cfg)
    folder = Path(out or f"{cfg.work_dir}_fewshot")
    target = folder / ("smoke.json" if plan.smoke else "fewshot.json")
    split = split_of(cfg)
    source = ShotSource.read(cfg, annotations, images, min_size=plan.min_size, replacement=plan.replacement)
    k = max(plan.shots)
    sets = load_sets(shots_files, source, split.novel, k) if shots_files else \
        {seed: source.draw(split.novel, k, seed) for seed in plan.seeds}
    check_apart(cfg, source, sets.values())
    head_file = Path(class_head) if class_head else of_config(cfg, "class_head")
    base_boxes = source.draw_base(split.base, base_shots)
    inputs = {"checkpoint": fingerprint(checkpoint), "annotations": fingerprint(source.path)}
    if head_file is not None and head_file.exists():
        load_classes(head_file)  # says what is wrong with a registry
        inputs["class_head"] = fingerprint(head_file)
    record = {"config": {"plan": asdict(plan), "shots": {str(seed): shots.hash for seed, shots in sets.items()},
                         **({} if base_boxes is None else {"base_shots": base_boxes.hash}), **_decisive(cfg)},
              "inputs": inputs}
    if current_or_remove(target, STAGE, **record, overwrite=overwrite):
        print(f"{target} is up to date")
        return json.loads(target.read_text())["rows"]
    untrained = marked([path for path in (checkpoint, head_file) if path is not None])
    warn(untrained, "The figures serve")
    smokes = smoked([path for path in (checkpoint, head_file) if path is not None])
    warn_of_smoke(smokes)
    for seed, shots in sets.items():
        shots.save(folder / "shots" / f"seed{seed}.json")
    torch_device = choose_device(device)
    with announced("ovd fewshot-eval", plan.smoke):
        detector = ShotDetector(cfg, checkpoint, source.image_root, torch_device, class_head, plan.scores)
        texts = {}
        if detector.known is not None and any(method.text for method in methods):
            texts["text"] = detector.known.select(split.novel)
            if any(method.text == "made-up" for method in methods):
                texts["made-up"] = made_up(cfg, texts["text"], split.novel, torch_device)

        def draw_base(k: int, seed: int, leave_out: frozenset[int]) -> "ShotSet":
            return source.draw(split.base, k, seed, leave_out, replacement=True)

        found = evaluate_methods(detector, methods, plan.shots, sets, split, texts=texts, images=plan.images,
                                 calibration_images=plan.calibration_images, draw_base=draw_base,
                                 base_shots=base_boxes)
    result = [] if plan.smoke else rows(found.figures, {method.name: method.title for method in methods})
    contents = {"rows": result, "base_lessons": [] if plan.smoke else list(found.lessons), "scores": plan.scores,
                SMOKE: plan.smoke or bool(smokes), "shots": record["config"]["shots"]}
    flags = {**({SMOKE: True} if plan.smoke or smokes else {}), **({FLAG: True} if untrained else {})}
    _write(target, contents, Manifest("fewshot", STAGE, **record, counts={"vocabularies": len(found.figures)},
                                      wall_seconds=round(time.perf_counter() - start, 1), flags=flags))
    if save_heads:
        for (name, shots, seed), head in found.heads.items():
            head.save(folder / "heads" / f"{name.replace(':', '_')}_{shots}shots_seed{seed}.safetensors", STAGE,
                      record["config"], inputs)
    if not plan.smoke:
        print(table(result))
    print(f"{len(found.figures)} vocabular{'y' if len(found.figures) == 1 else 'ies'} in "
          f"{time.perf_counter() - start:.0f} s: {target}")
    return result


def _decisive(cfg: "Config") -> dict[str, Any]:
    """What of a config decides what a detector says of the evaluation images."""
    from ovd.engine.config import plain

    sections = plain(cfg)
    return {name: sections[name] for name in ("model", "test_dataloader", "test_evaluator") if sections.get(name)}


def _write(target: Path, contents: Mapping[str, Any], manifest: "Manifest") -> None:
    """The json with its manifest, and a chart beside it where there is something to draw."""
    from ovd.fewshot.detection.chart import draw_chart
    from ovd.stores.atomic import write_bytes
    from ovd.stores.manifest import publish

    target.parent.mkdir(parents=True, exist_ok=True)
    with publish(target, manifest) as (temporary, _):
        temporary.write_text(json.dumps(contents, indent=1) + "\n")
    if contents["rows"]:
        write_bytes(target.with_suffix(".png"), draw_chart(contents["rows"]))
