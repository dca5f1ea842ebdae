"""Checks of a config's input files before any work is spent, and their fingerprints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ovd.clip.crops import CropRecipe
from ovd.engine.config import walk
from ovd.errors import UserError, nearest
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes
from ovd.stores.manifest import fingerprint
from ovd.stores.shards import RegionStore
from ovd.vocabulary.classes import canonical
from ovd.vocabulary.splits import get_split

STORES = ("region_store", "block_store", "global_store")

# what makes each kind of input
REMEDIES = {
    "ann_file": "make it with ovd build-zsl (of shots: ovd shots annotations; ovd doctor CONFIG has the "
                "whole command), or point --data-root at the dataset",
    "region_store": "make it with ovd embed-regions CONFIG",
    "block_store": "make it with ovd embed-regions CONFIG --what blocks",
    "global_store": "make it with ovd embed-regions CONFIG --what globals",
    "class_head": "make it with ovd class-embeddings",
    "load_from": "make it with the commands in the docstring of the config, or download it; None trains from scratch",
    "checkpoint": "download it, or set the init_cfg of that part of the model to None",
    "pretrained": "give a file, or the name of a model",
}


@dataclass(frozen=True)
class Input:
    """A file or folder that a section of the config reads."""

    kind: str
    key: str
    path: Path


def find_inputs(cfg: Config, sections: tuple[str, ...]) -> list[Input]:
    """The input files that ``sections`` of a config name, without repetitions.

    Paths are relative to the ``data_root`` of their section, where it has one.
    """
    found = {}
    for section in sections:
        for entry in _inputs(cfg.get(section), section):
            found.setdefault((entry.kind, entry.path), entry)
    if "model" in sections and cfg.get("load_from"):
        found["load_from", Path(cfg.load_from)] = Input("load_from", "load_from", Path(cfg.load_from))
    return list(found.values())


def check_inputs(inputs: list[Input]) -> None:
    """Refuse inputs that are missing or do not belong together.

    Raises:
        UserError: a missing file; class heads and region stores of different widths or of different CLIPs.
    """
    for entry in inputs:
        if not entry.path.exists():
            raise UserError(f"{entry.path}: not found ({entry.key} of the config): {REMEDIES[entry.kind]}")
    heads = {entry.path: load_classes(entry.path) for entry in inputs if entry.kind == "class_head"}
    stores = {entry.path: (entry.kind, RegionStore(entry.path)) for entry in inputs if entry.kind in STORES}
    for store_path, (kind, store) in stores.items():
        if store.kind != "regions":
            raise UserError(f"{store_path}: a store of {store.kind} has no embeddings: {REMEDIES[kind]}")
        for head_path, head in heads.items():
            check_pair(head_path, head, store_path, store)


def check_pair(head_path: Path, head: ClassHead, store_path: Path, store: RegionStore) -> None:
    """Refuse a class head and a region store of different widths, or of different CLIPs where both say theirs.

    Raises:
        UserError: naming both files.
    """
    if head.dim != store.dim:
        raise UserError(f"{head_path} has width {head.dim}, but {store_path} has width {store.dim}: make both with the "
                        "same CLIP")
    ours, theirs = head.stats.get("clip"), store.manifest.inputs.get("clip")
    if ours and theirs and ours != theirs:
        raise UserError(f"{head_path} and {store_path} were made with different CLIPs ({ours[:15]}, {theirs[:15]}): "
                        "make both with the same")


def check_crops(cfg: Config, inputs: list[Input]) -> None:
    """Refuse a region store whose crops are not those that the config's ``regions`` section asks for.

    Crops of another kind teach another thing without a word. A config without that section, and a store that does not
    say how it was made (an imported one), are taken as they are.

    Raises:
        UserError: Another crop recipe, or masked attention on one side only.
    """
    asked = cfg.get("regions") or {}
    if "recipe" not in asked:
        return
    wanted = _crops({**asked, "recipe": CropRecipe(**asked["recipe"]).config()})
    for entry in inputs:
        if entry.kind != "region_store" or "recipe" not in (made := RegionStore(entry.path).manifest.config):
            continue
        found = _crops(made)
        if differ := [key for key in wanted if found.get(key) != wanted[key]]:
            said = ", ".join(f"{key} {found.get(key)} (the config says {wanted[key]})" for key in differ)
            raise UserError(f"{entry.path}: was made with regions.{said}: make it with this config "
                            "(ovd embed-regions CONFIG), or name another store")


def _crops(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the pixels that CLIP saw, flat."""
    recipe = {f"recipe.{key}": value for key, value in settings["recipe"].items()}
    return {**recipe, "masked_attention": settings.get("masked_attention", False),
            "upsample": settings.get("upsample", 1)}


def check_class_heads(model: dict) -> None:
    """Refuse class heads of another width than the model's, or without some class of its split.

    Args:
        model: the model's config.
    """
    for _, part in walk(model):
        if not isinstance(part.get("class_head"), str):
            continue
        root = Path(part.get("data_root") or "")
        path = root / part["class_head"]
        head = load_classes(path)
        if part.get("embed_dim") and part["embed_dim"] != head.dim:
            raise UserError(f"{path} has width {head.dim}, but the model's embeddings have {part['embed_dim']}: make "
                            f"it with the CLIP that the model imitates, or set embed_dim={head.dim} and train again")
        tower = part.get("feat_channels")  # of a detector whose classes are rows of its own
        if tower and (tower != head.dim or "clip" in head.stats):
            raise UserError(f"{path}: classes of width {head.dim}{' of a CLIP' * ('clip' in head.stats)}, but the "
                            f"model compares with features of its own, of width {tower}: make them with it (ovd "
                            "class-codes)")
        if split := part.get("split"):
            split = get_split(str(root / split) if str(split).endswith((".json", ".txt")) else split)
            present = {canonical(name) for name in head.names}
            absent = [name for name in split.classes if canonical(name) not in present]
            if absent:
                raise UserError(f"{path} lacks {len(absent)} of the {len(split.classes)} classes of split "
                                f"{split.name}, such as {absent[0]!r}{nearest(absent[0], head.names)}")


def fingerprints(inputs: list[Input]) -> dict[str, str]:
    """``{kind: fingerprint}``; inputs of one kind are numbered from the second on."""
    result: dict[str, str] = {}
    for entry in inputs:
        number = sum(name.split(" ")[0] == entry.kind for name in result)
        result[f"{entry.kind} {number + 1}" if number else entry.kind] = fingerprint(entry.path)
    return result


def _inputs(node: Any, section: str) -> Iterator[Input]:
    for where, part in walk(node, section):
        root = Path(part.get("data_root") or "")
        for kind in ("ann_file", *STORES, "class_head"):
            if isinstance(value := part.get(kind), str) and value:
                yield Input(kind, f"{where}.{kind}", root / value)
        for kind in ("checkpoint", "pretrained"):  # also names of models, and addresses
            value = part.get(kind)
            if isinstance(value, str) and "://" not in value and Path(value).suffix in (".pth", ".pt", ".safetensors"):
                yield Input(kind, f"{where}.{kind}", Path(value))
