"""Learn DetPro's prompts: a context of a few vectors for all classes, from base annotations; write a class head.

  tools/learn_prompts.py configs/shapes/detpro.py               # learns the contexts, writes the config's class_head
  tools/learn_prompts.py --apply class_heads/detpro --dataset coco --pretrained "ViT-B/32" --out coco.safetensors

The config says where things are, relative to its data_root: train_ann, split, region_store, class_head (the file to
write), regions.pretrained, and how to learn:

    prompts = dict(ground_truth_store="regions/ground_truth", context=8, position="end", mode="soft", epochs=6, ...)

The store of ground truth is made by two commands before:

    ovd proposals CONFIG --from-annotations --subset train --out DATA/proposals/ground_truth
    ovd embed-regions CONFIG --proposals DATA/proposals/ground_truth --out DATA/regions/ground_truth

A model is learned for each range of IoU; a finished one is kept in the contexts' folder, so an interrupted run goes on
with the next. The head has all classes of the split, base and novel. --apply gives contexts to other class names.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from ovd.clip.prompts.batches import PairReader
    from ovd.clip.prompts.context import PromptContext
    from ovd.clip.prompts.settings import PromptSettings
    from ovd.clip.prompts.tower import PromptTower
    from ovd.stores.class_heads import ClassHead
    from ovd.vocabulary.splits import Split

STAGE = "learn-prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/learn_prompts.py``."""
    parser.add_argument("config", nargs="?", help="the config file")
    files = parser.add_argument_group("files")
    files.add_argument("--data-root", metavar="D", help="use the dataset in this folder instead of the config's")
    files.add_argument("--out", metavar="FILE", help="class head to write (default: the config's class_head)")
    files.add_argument("--contexts", metavar="DIR", help="folder for the pairs and the learned contexts (default: the "
                       "class head's path without its suffix)")
    files.add_argument("--regions", metavar="DIR", help="region store of proposals (default: the config's)")
    files.add_argument("--ground-truth", metavar="DIR", help="region store of the annotated boxes (default: the "
                       "config's prompts.ground_truth_store)")
    files.add_argument("--overwrite", action="store_true", help="learn again what is there")
    how = parser.add_argument_group("how to learn (default: the config's prompts section)")
    how.add_argument("--context", type=int, metavar="N", help="vectors in the context")
    how.add_argument("--position", help="where the class name stands: end, middle or front")
    how.add_argument("--mode", help="background loss: soft, hinge, mean, meanbg, max, learn, fg_only")
    how.add_argument("--ranges", nargs="+", type=_range, metavar="A-B", help="IoU of each model's positives")
    how.add_argument("--epochs", type=int, metavar="N")
    how.add_argument("--batch-size", type=int, metavar="N")
    how.add_argument("--lr", type=float)
    how.add_argument("--momentum", type=float)
    how.add_argument("--temperature", type=float)
    how.add_argument("--holdout", type=float, metavar="PART", help="part of the images to keep from training, to "
                     "measure accuracy on their base objects")
    how.add_argument("--seed", type=int)
    clip = parser.add_argument_group("CLIP")
    clip.add_argument("--pretrained", metavar="CLIP", help="as for ovd class-embeddings (default: the config's "
                      "regions.pretrained)")
    clip.add_argument("--model", metavar="NAME", help="architecture of a weights file that does not say it")
    clip.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                      help="where to compute (default: a GPU where there is one)")
    clip.add_argument("--allow-untrained", action="store_true", help="permit random weights; the files are marked")
    other = parser.add_argument_group("other vocabularies")
    other.add_argument("--apply", nargs="+", metavar="CONTEXT", help="learn nothing: make a head of these contexts "
                       "(files, folders of them, or published *_prompt.pth)")
    other.add_argument("--names", metavar="FILE", help="class names: .txt with one a line, or a .json list")
    other.add_argument("--dataset", metavar="D", help="coco, lvis_v1, voc, a split (48_17, 866_337, ...) or its file")
    other.add_argument("--split", dest="dataset", metavar="D", help=argparse.SUPPRESS)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change values of the config, such as prompts.negatives_kept=1")


LEARNING = ("context", "position", "mode", "ranges", "epochs", "batch_size", "lr", "momentum", "temperature", "holdout",
            "seed")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/learn_prompts.py`` and ``ovd learn-prompts``."""
    clip = {"pretrained": args.pretrained, "model": args.model, "device": args.device,
            "allow_untrained": args.allow_untrained}
    if args.apply:
        if not args.out:
            raise UserError("--apply: say which class head to write: --out FILE")
        if not (args.names or args.dataset):
            raise UserError("--apply: say which classes: --names FILE, or --dataset D")
        if args.config and not args.pretrained:
            from ovd.engine.config import load_config

            regions = load_config(args.config, args.cfg_options, args.data_root).get("regions") or {}
            clip |= {"pretrained": regions.get("pretrained"), "model": args.model or regions.get("model")}
        apply_contexts(args.apply, args.names, args.dataset, args.out, data_root=args.data_root,
                       position=args.position, overwrite=args.overwrite, **clip)
        return 0
    if not args.config:
        raise UserError("give a config to learn with, or contexts to --apply")
    if args.names or args.dataset:
        raise UserError("--names and --dataset belong to --apply; the classes to learn with are the config's split")
    learn_prompts(args.config, options=args.cfg_options, data_root=args.data_root, out=args.out,
                  contexts=args.contexts, regions=args.regions, ground_truth=args.ground_truth,
                  overwrite=args.overwrite, learning={key: getattr(args, key) for key in LEARNING}, **clip)
    return 0


def learn_prompts(config: str | Path, *, options: Sequence[str] | Mapping[str, Any] = (),
                  data_root: str | Path | None = None, out: str | Path | None = None,
                  contexts: str | Path | None = None, regions: str | Path | None = None,
                  ground_truth: str | Path | None = None, overwrite: bool = False,
                  learning: Mapping[str, Any] | None = None, pretrained: str | None = None, model: str | None = None,
                  device: str = "auto", allow_untrained: bool = False) -> "ClassHead":
    """Learn a context for each range of IoU, and write the class head of their ensemble.

    Args:
        learning: Settings that replace the config's (:class:`ovd.clip.prompts.settings.PromptSettings`).
        Others: As the options of the command line; None takes the config's value or the default.

    Raises:
        UserError: Wrong or missing input, regions of another CLIP, existing files made otherwise.
    """
    from ovd.clip.prompts.settings import PromptSettings
    from ovd.engine.config import load_config
    from ovd.stores.manifest import fingerprint
    from ovd.vocabulary.splits import get_split

    start = time.perf_counter()
    cfg = load_config(config, options, data_root)
    settings = PromptSettings.read(cfg.get("prompts") or {}, str(config), **(learning or {}))
    root = Path(cfg.get("data_root") or "")
    split = get_split(_variable(cfg, "split"), root)
    ann_file = root / _variable(cfg, "train_ann")
    out = Path(out) if out else root / _variable(cfg, "class_head")
    folder = Path(contexts) if contexts else out.with_suffix("")
    stores = {"regions": Path(regions) if regions else root / _variable(cfg, "region_store")}
    if ground_truth or settings.ground_truth_store:
        stores["ground_truth"] = Path(ground_truth) if ground_truth else root / settings.ground_truth_store
    section = cfg.get("regions") or {}
    if not pretrained:
        pretrained, model = section.get("pretrained"), model or section.get("model")
    tower, untrained = _tower(pretrained, model, device, allow_untrained)
    inputs = _inputs(stores, tower, ann_file, fingerprint)
    reader = _collect(folder / "pairs.bin", stores, ann_file, split, inputs, overwrite)
    found = [_context(folder, tower, split, reader, settings, positives, inputs, untrained, overwrite)
             for positives in settings.ranges]
    names = {context_path(folder, positives).name: fingerprint(context_path(folder, positives))
             for positives in settings.ranges}
    head = _write_head(out, tower, found, names, split.classes, untrained, overwrite)
    print(f"{len(found)} contexts of {settings.context} vectors for {len(split.base)} base and {len(split.novel)} "
          f"novel classes, {time.perf_counter() - start:.0f} s")
    return head


def apply_contexts(paths: Sequence[str | Path], names_file: str | Path | None, dataset: str | None, out: str | Path, *,
                   data_root: str | Path | None = None, position: str | None = None, pretrained: str | None = None,
                   model: str | None = None, device: str = "auto", allow_untrained: bool = False,
                   overwrite: bool = False) -> "ClassHead":
    """A class head of learned contexts for any class names.

    Args:
        paths: Context files, folders of them, or published ``*_prompt.pth``.
        position: Where the class name stands, for files that do not say it.
        Others: As the options of the command line.

    Raises:
        UserError: Not such files, contexts of another CLIP, no names.
    """
    from ovd.clip.prompts.context import PromptContext
    from ovd.stores.manifest import fingerprint
    from pipelines.vocabulary import find_vocabulary

    names = find_vocabulary(dataset, names_file, data_root).names
    files = [file for path in paths for file in _context_files(Path(path))]
    found = [PromptContext.load(file, position) for file in files]
    tower, untrained = _tower(pretrained, model, device, allow_untrained)
    inputs = {f"context {number}": fingerprint(file) for number, file in enumerate(files)}
    return _write_head(Path(out), tower, found, inputs, names, untrained, overwrite)


def context_path(folder: Path, positives: tuple[float, float]) -> Path:
    """The file of the context that was learned with positives of this range of IoU."""
    return folder / f"context_{positives[0]:g}-{positives[1]:g}.safetensors"


def _context_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if not (files := sorted(path.glob("context_*.safetensors"))):
        raise UserError(f"{path}: has no learned contexts (context_*.safetensors)")
    return files


def _tower(pretrained: str | None, model: str | None, device: str, allow_untrained: bool) -> "tuple[PromptTower, bool]":
    from ovd.clip.prompts.tower import PromptTower
    from ovd.clip.towers import load_clip
    from ovd.engine.launch import choose_device

    if not pretrained:
        raise UserError('no CLIP is named; pass --pretrained, such as "ViT-B/32", or a config with regions.pretrained')
    clip = load_clip(pretrained, model=model, device=choose_device(device), allow_untrained=allow_untrained)
    return PromptTower(clip), clip.untrained


def _inputs(stores: Mapping[str, Path], tower: "PromptTower", ann_file: Path, fingerprint: Any) -> dict[str, str]:
    """Fingerprints of everything that is learned from; refuses stores of another kind or CLIP."""
    from ovd.stores.manifest import Manifest, require

    inputs = {"clip": tower.fingerprint, "annotations": fingerprint(ann_file)}
    for name, path in stores.items():
        if name == "ground_truth" and not Manifest.path(path).exists():
            raise UserError(f"{path}: no store of the annotated boxes' embeddings; make it (ovd learn-prompts --help "
                            "has the two commands), or learn without: --cfg-options prompts.ground_truth_store=none")
        require(path, kind="regions", clip=tower.fingerprint)
        inputs[name] = fingerprint(path)
    return inputs


def _collect(path: Path, stores: Mapping[str, Path], ann_file: Path, split: "Split", inputs: dict[str, str],
             overwrite: bool) -> "PairReader":
    """The training pairs, collected into ``path`` unless they are there."""
    from ovd.clip.prompts.batches import PairReader
    from ovd.clip.prompts.pairs import PairFile
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint_json, publish
    from ovd.stores.shards import RegionStore

    opened = {name: RegionStore(store, mapped_shards=1) for name, store in stores.items()}
    config = {"base": fingerprint_json(list(split.base))}
    if not current_or_remove(path, STAGE, config, inputs, overwrite):
        with publish(path, Manifest("prompt_pairs", STAGE, config, inputs)) as (temporary, manifest):
            manifest.counts = _write_pairs(temporary, opened["regions"], opened.get("ground_truth"), ann_file, split)
    counts = Manifest.read(path).counts
    print(f"{path}: {counts['foreground']:,} foreground and {counts['background']:,} background pairs of proposals, "
          f"{counts['ground_truth']:,} of {counts['objects']:,} base objects with an embedding")
    return PairReader(PairFile(path), opened["regions"], opened.get("ground_truth"))


def _write_pairs(path: Path, regions: Any, truth: Any, ann_file: Path, split: "Split") -> dict[str, int]:
    """Write the records of all images to ``path``; returns how many of each kind."""
    import numpy as np
    from tqdm import tqdm

    from ovd.clip.prompts.pairs import MOST_CLASSES, append, proposal_pairs, truth_pairs
    from ovd.data.annotations import load_annotations

    if len(split.base) > MOST_CLASSES:
        raise UserError(f"split {split.name}: {len(split.base)} base classes, at most {MOST_CLASSES} can be learned")
    annotations = load_annotations(ann_file)
    base = set(range(split.num_base))
    labels = {c.id: label for c in annotations.categories if c.name in split and (label := split.label(c.name)) in base}
    by_image = annotations.by_image()
    regions.require_images(by_image)
    if truth:
        truth.require_images(by_image)
    counts = dict.fromkeys(("objects", "ground_truth", "foreground", "background"), 0)
    with open(path, "wb") as file:
        for place, image_id in enumerate(tqdm(regions.image_ids.tolist(), desc="pairs", unit=" images")):
            objects = [a for a in by_image.get(image_id, ()) if a.category_id in labels and not a.iscrowd]
            if not objects:
                continue
            boxes_G4 = np.array([a.bbox for a in objects], np.float64)
            boxes_G4[:, 2:] += boxes_G4[:, :2]
            labels_G = np.array([labels[a.category_id] for a in objects], np.int64)
            pairs = [proposal_pairs(regions.view(image_id).boxes, boxes_G4, labels_G)]
            foreground = int((pairs[0]["label"] >= 0).sum())
            if truth:
                pairs.append(truth_pairs(truth.view(image_id).boxes, boxes_G4, labels_G))
                counts["ground_truth"] += len(pairs[1])
            for found in pairs:
                found["image"] = place
                append(file, found)
            counts["objects"] += len(objects)
            counts["foreground"] += foreground
            counts["background"] += len(pairs[0]) - foreground
    if not counts["objects"]:
        raise UserError(f"{ann_file}: has no object of a base class of split {split.name}")
    return counts


def _context(folder: Path, tower: "PromptTower", split: "Split", reader: "PairReader", settings: "PromptSettings",
             positives: tuple[float, float], inputs: dict[str, str], untrained: bool,
             overwrite: bool) -> "PromptContext":
    """The context of one range of IoU, learned unless it is there."""
    from dataclasses import replace

    from tqdm import tqdm

    from ovd.clip.prompts.context import KIND, PromptContext
    from ovd.clip.prompts.learner import learn_context
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint_json

    path = context_path(folder, positives)
    how = {key: value for key, value in asdict(settings).items() if key not in ("ranges", "ground_truth_store")}
    config = {**how, "positives": positives, "base": fingerprint_json(list(split.base))}
    if current_or_remove(path, STAGE, config, inputs, overwrite):
        print(f"{path} is up to date")
        return PromptContext.load(path).check(tower)
    start = time.perf_counter()
    total = sum(map(len, settings.selection(positives).of(reader.pairs))) * settings.epochs
    with tqdm(total=total, desc=f"IoU {positives[0]:g}-{positives[1]:g}", unit=" pairs") as bar:
        def progress(pairs: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(pairs)

        outcome = learn_context(tower, split.base, reader, settings, positives, progress)
    context = replace(outcome.context, notes={**how, "positives": positives})
    counts = {"positives": outcome.positives, "negatives": outcome.negatives, "losses": outcome.losses}
    held_out = ""
    if outcome.held_out:
        counts["held_out_accuracy"] = outcome.held_out
        held_out = f", held-out base accuracy {outcome.held_out[0]:.1f} -> {outcome.held_out[1]:.1f} %"
    context.save(path, Manifest(KIND, STAGE, config, inputs, flags={"untrained": True} if untrained else {},
                                counts=counts))
    print(f"{path}: {outcome.positives:,} + {outcome.negatives:,} pairs, loss {outcome.losses[0]:.3f} -> "
          f"{outcome.losses[-1]:.3f}{held_out}, {time.perf_counter() - start:.0f} s")
    return context


def _write_head(out: Path, tower: "PromptTower", contexts: "Sequence[PromptContext]", inputs: Mapping[str, str],
                names: Sequence[str], untrained: bool, overwrite: bool) -> "ClassHead":
    """The contexts' class head, computed unless it is there."""
    from tqdm import tqdm

    from ovd.clip.prompts.context import context_head
    from ovd.stores.class_heads import ClassHead
    from ovd.stores.manifest import current_or_remove, fingerprint_json

    record = {"config": {"classes": len(names), "names": fingerprint_json(list(names)),
                         "positions": [context.position for context in contexts]},
              "inputs": {"clip": tower.fingerprint, **inputs}}
    if current_or_remove(out, STAGE, **record, overwrite=overwrite):
        print(f"{out} is up to date")
        return ClassHead.load(out)
    with tqdm(total=len(names), desc="class embeddings", unit=" classes") as bar:
        head = context_head(tower, contexts, names, bar.update)
    head.save(out, STAGE, **record, flags={"untrained": True} if untrained else {})
    print(f"{out}: {len(head):,} classes, width {head.dim}, from {len(contexts)} learned contexts")
    if untrained:
        print("these embeddings mean nothing: the CLIP is untrained (the file is marked)")
    return head


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 0.5-0.6") from None


def _variable(cfg: Any, name: str) -> str:
    if not isinstance(cfg.get(name), str):
        raise UserError(f"{cfg.filename}: {name} is not set; it says where in data_root that is")
    return cfg[name]
