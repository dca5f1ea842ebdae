"""What a config says about region embeddings: its ``regions`` section, and where the stores are."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

    from ovd.clip.crops import CropRecipe

STORES = {"objects": ("region_store", "regions"), "blocks": ("block_store", "blocks"),
          "globals": ("global_store", "globals")}  # what is embedded -> the config's variable, the usual folder
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
ROWS = ("float16", "int8")


@dataclass(frozen=True)
class Settings:
    """The ``regions`` section of a config.

    Attributes:
        pretrained, model: See :func:`ovd.clip.towers.load_clip`.
        precision: Of the image tower: ``fp32``, ``fp16``, ``bf16``, or ``auto``: fp16 on a GPU, fp32 on a processor.
        recipe: See :class:`ovd.clip.crops.CropRecipe`; the default is ViLD's.
        top_k: Proposals an image (ViLD: 300); None for all that are stored.
        images_per_shard: Images in a unit of work.
        rows: How embeddings are stored: ``float16``, or ``int8`` with a scale a row, in half the space.
        masked_attention, upsample: Of the proposals' embeddings; see :class:`ovd.clip.levels.Objects`.
    """

    pretrained: str
    recipe: "CropRecipe"
    model: str | None = None
    precision: str = "auto"
    top_k: int | None = 300
    images_per_shard: int = 512
    rows: str = "float16"
    masked_attention: bool = False
    upsample: int = 1

    @classmethod
    def read(cls, section: Mapping[str, Any], where: str, **options: str | None) -> "Settings":
        """Check a config's section; ``options`` that are not None replace its values."""
        from ovd.clip.crops import CropRecipe

        values = {**section, **{key: value for key, value in options.items() if value is not None}}
        _check_keys(values, cls, f"{where}: regions")
        recipe = dict(values.pop("recipe", {}))
        _check_keys(recipe, CropRecipe, f"{where}: regions.recipe")
        if not values.get("pretrained"):
            raise UserError(f"{where}: no CLIP is named; set regions.pretrained, or pass --pretrained")
        settings = cls(recipe=CropRecipe(**recipe), **values)
        if settings.upsample != 1 and not settings.masked_attention:
            raise UserError(f"{where}: regions.upsample = {settings.upsample}: belongs to masked attention; set "
                            "regions.masked_attention=True too")
        for key, known in (("precision", PRECISIONS), ("rows", ROWS)):
            if (value := getattr(settings, key)) not in known:
                raise UserError(f"{where}: regions.{key} = {value!r} is not one of {', '.join(known)}")
        for key in ("top_k", "images_per_shard", "upsample"):
            value = getattr(settings, key)
            if not (key == "top_k" and value is None) and (not isinstance(value, int) or value < 1):
                raise UserError(f"{where}: regions.{key} = {value!r}: needs a whole number, 1 or more")
        return settings

    def precision_on(self, device: "torch.device") -> str:
        """The precision that ``auto`` stands for on a device, or the one that is set."""
        if self.precision == "auto":
            return "fp16" if device.type == "cuda" else "fp32"
        return self.precision


def store_of(cfg: Any, subset: str, what: str = "objects") -> Path:
    """The config's store of ``train`` or ``val``; for the latter the usual folder where it does not name one."""
    name, folder = STORES[what]
    path = variable(cfg, name) if subset == "train" else cfg.get(f"{name}_val", f"{folder}/val")
    return Path(cfg.get("data_root") or "", path)


def variable(cfg: Any, name: str) -> str:
    """A variable of the config that says where something is.

    Raises:
        UserError: It is not set.
    """
    if not isinstance(cfg.get(name), str):
        raise UserError(f"{cfg.filename}: {name} is not set; it says where in data_root that is")
    return cfg[name]


def _check_keys(values: Mapping[str, Any], kind: type, where: str) -> None:
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise UserError(f"{where} has no key {key!r}{nearest(key, known)}")
