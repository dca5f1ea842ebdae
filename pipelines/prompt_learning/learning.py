"""Learning the contexts of an ensemble, a model for each range of IoU, and the class head that they give."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovd.clip.prompts.batches import PairReader
from ovd.clip.prompts.context import KIND, PromptContext
from ovd.clip.prompts.learner import learn_context
from ovd.clip.prompts.settings import PromptSettings
from ovd.clip.prompts.tower import PromptTower
from ovd.engine.config import load_config
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, fingerprint_json, remove, require
from ovd.vocabulary.splits import Split, get_split
from pipelines.prompt_learning.collection import collect_pairs
from pipelines.prompt_learning.heads import STAGE, check_head, context_files, text_tower, write_head


def learn_prompts(config: str | Path, *, options: Sequence[str] | Mapping[str, Any] = (),
                  data_root: str | Path | None = None, out: str | Path | None = None,
                  contexts: str | Path | None = None, regions: str | Path | None = None,
                  ground_truth: str | Path | None = None, overwrite: bool = False,
                  learning: Mapping[str, Any] | None = None, pretrained: str | None = None, model: str | None = None,
                  device: str = "auto", allow_untrained: bool = False) -> ClassHead:
    """Learn a context for each range of IoU, and write the class head of their ensemble.

    Args:
        learning: Settings that replace the config's (:class:`ovd.clip.prompts.settings.PromptSettings`).
        Others: As the options of the command line; None takes the config's value or the default.

    Raises:
        UserError: Wrong or missing input, regions of another CLIP, existing files made otherwise.
    """
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
    tower, untrained = text_tower(pretrained, model, device, allow_untrained)
    paths = [context_path(folder, positives) for positives in settings.ranges]
    if not overwrite:
        check_head(out, tower, settings.position, [path.name for path in paths], split.classes)
    inputs = _inputs(stores, tower, ann_file)
    _clear_other_ranges(folder, paths, overwrite)
    reader = collect_pairs(folder / "pairs.bin", stores, ann_file, split, inputs, overwrite)
    found = [_context(folder, tower, split, reader, settings, positives, inputs, untrained, overwrite)
             for positives in settings.ranges]
    head = write_head(out, tower, found, {path.name: fingerprint(path) for path in paths}, split.classes, untrained,
                      overwrite)
    print(f"{len(found)} contexts of {settings.context} vectors for {len(split.base)} base and {len(split.novel)} "
          f"novel classes, {time.perf_counter() - start:.0f} s")
    return head


def context_path(folder: Path, positives: tuple[float, float]) -> Path:
    """The file of the context that was learned with positives of this range of IoU."""
    return folder / f"context_{positives[0]:g}-{positives[1]:g}.safetensors"


def _clear_other_ranges(folder: Path, paths: Sequence[Path], overwrite: bool) -> None:
    """Refuse contexts of other ranges in the folder, or remove them: whoever applies the folder would take them too."""
    others = [path for path in context_files(folder) if path not in paths]
    if others and not overwrite:
        raise UserError(f"{others[0]}: was learned for another range of IoU, and a folder holds one ensemble; pass "
                        "--overwrite to learn anew, or choose another folder with --contexts")
    for path in others:
        remove(path)


def _inputs(stores: Mapping[str, Path], tower: PromptTower, ann_file: Path) -> dict[str, str]:
    """Fingerprints of everything that is learned from; refuses stores of another kind or CLIP."""
    inputs = {"clip": tower.fingerprint, "annotations": fingerprint(ann_file)}
    for name, path in stores.items():
        if name == "ground_truth" and not Manifest.path(path).exists():
            raise UserError(f"{path}: no store of the annotated boxes' embeddings; make it (ovd learn-prompts --help "
                            "has the two commands), or learn without: --cfg-options prompts.ground_truth_store=none")
        require(path, kind="regions", clip=tower.fingerprint)
        inputs[name] = fingerprint(path)
    return inputs


def _context(folder: Path, tower: PromptTower, split: Split, reader: PairReader, settings: PromptSettings,
             positives: tuple[float, float], inputs: dict[str, str], untrained: bool,
             overwrite: bool) -> PromptContext:
    """The context of one range of IoU, learned unless it is there."""
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


def _variable(cfg: Any, name: str) -> str:
    if not isinstance(cfg.get(name), str):
        raise UserError(f"{cfg.filename}: {name} is not set; it says where in data_root that is")
    return cfg[name]
