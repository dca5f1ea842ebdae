"""Which annotations, images and CLIP belong to a region store that ``ovd serve`` shows."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd.errors import UserError


@dataclass(frozen=True)
class ServedIndex:
    """A region store with what belongs to it; ``model`` is the CLIP's architecture where its file does not say it."""

    store: Path
    annotations: Path
    images: Path
    pretrained: str
    model: str | None = None


def served_index(store: Path, config: str | None = None, annotations: str | None = None, images: str | None = None,
                 pretrained: str | None = None) -> ServedIndex:
    """What is given, and for the rest what the config says, or the dataset of the project whose layout the store has.

    Args:
        config: The served detector's; its dataset is taken first.

    Raises:
        UserError: No such store; nothing says where its images are, or which CLIP made it.
    """
    from ovd.stores.manifest import Manifest

    if not Manifest.path(store).exists():
        raise UserError(f"--index {store}: no region store is there; ovd embed-regions makes one")
    given = annotations, images, pretrained
    for found in _candidates(store, config):
        if all(given) or (found.annotations.is_file() and found.images.is_dir()):
            return ServedIndex(store, Path(annotations or found.annotations), Path(images or found.images),
                               pretrained or found.pretrained, None if pretrained else found.model)
    if all(given):
        return ServedIndex(store, Path(annotations), Path(images), pretrained)
    raise UserError(f"--index {store}: is laid out as no dataset of the project; say where its pictures are with "
                    "--index-ann FILE --index-images DIR --index-clip CLIP")


def _candidates(store: Path, config: str | None) -> Iterator[ServedIndex]:
    from ovd.engine.config import load_config
    from pipelines.chosen_config import DATASETS

    for file in [*([Path(config)] if config else []), *sorted(DATASETS.glob("*.py"))]:
        cfg = load_config(file)
        for subset in ("train", "val"):
            found = _placed(cfg, subset, store)
            if found is not None:
                yield found


def _placed(cfg: Any, subset: str, store: Path) -> ServedIndex | None:
    """The store's surroundings, if it lies in a folder as a config's store lies in its data_root."""
    from pipelines.region_settings import store_of

    settings = cfg.get("regions") or {}
    names = [cfg.get(f"{subset}_ann"), cfg.get(f"{subset}_prefix"), settings.get("pretrained")]
    if not isinstance(cfg.get("region_store"), str) or not all(isinstance(name, str) for name in names):
        return None
    usual = os.path.relpath(store_of(cfg, subset), cfg.get("data_root") or ".")
    parts = Path(usual).parts
    here = Path(os.path.abspath(store))
    if here.parts[-len(parts):] != parts:
        return None
    root = here.parents[len(parts) - 1]
    return ServedIndex(store, root / names[0], root / names[1], names[2], settings.get("model"))
