"""The config of a command that needs none where a store is named, or where there is only one that could be meant."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError
from ovd.shipped import CONFIGS

if TYPE_CHECKING:
    from mmengine.config import Config

DATASETS = CONFIGS / "_base_" / "datasets"


def chosen_config(config: str | Path | None, store: str | Path | None, subset: str,
                  options: Sequence[str] | Mapping[str, Any] = (),
                  data_root: str | Path | None = None, named: str = "CONFIG") -> "Config | dict[str, Any]":
    """The config that is named; an empty one where a store is; else that of the one dataset whose region store is here.

    Args:
        subset: ``train`` or ``val``, whose store is looked for.
        options, data_root: changes of the config.
        named: how the command line names a config.

    Raises:
        UserError: no config, and no store or several that could be meant; changes of a config that is not named.
    """
    from ovd.engine.config import load_config

    if config is not None:
        return load_config(config, options, data_root)
    if options or data_root is not None:
        raise UserError("--data-root and --cfg-options change a config: name that with " + named)
    if store is not None:
        return {}
    found = _stores(subset)
    if not found:
        raise UserError(f"no region store ({subset}) of the datasets in {os.path.relpath(DATASETS)} is here: add "
                        f"{named}, or --store DIR")
    if len(found) > 1:
        choices = " or ".join(f"{file} (for {path})" for path, file in found.items())
        raise UserError(f"{len(found)} region stores could be meant: add {named}, such as {choices}")
    (path, file), = found.items()
    print(f"region store {path}, as {file} has it")
    return load_config(file)


def _stores(subset: str) -> dict[Path, str]:
    """Finished region stores that the project's datasets name, and the first config of each."""
    from ovd.engine.config import load_config
    from ovd.stores.manifest import Manifest
    from pipelines.region_settings import store_of

    found: dict[Path, str] = {}
    for file in sorted(DATASETS.glob("*.py")):
        cfg = load_config(file)
        if isinstance(cfg.get("region_store"), str) and Manifest.path(path := store_of(cfg, subset)).exists():
            found.setdefault(path, os.path.relpath(file))
    return found
