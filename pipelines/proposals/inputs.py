"""What the proposal stage reads from a config: its settings, and the images of a subset."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from mmengine.config import Config

from ovd.data.annotations import Annotations, image_path, load_annotations
from ovd.data.images import Photo
from ovd.engine.config import plain
from ovd.errors import UserError, nearest
from ovd.evaluation.recall import ImageBoxes
from ovd.stores.manifest import fingerprint
from ovd.vocabulary.splits import Split, get_split

SHARD_IMAGES = 512
SHARDS = 16  # of a smaller data set at most, with at least as many images each: something to share between processes


@dataclass(frozen=True)
class Settings:
    """The ``proposals`` section of a config. None is for what the machine (batch) or the data (shards) decide."""

    max_per_image: int = 300
    batch_size: int | None = None
    images_per_shard: int | None = None

    @classmethod
    def read(cls, cfg: Config, **options: int | None) -> "Settings":
        """Check the section; ``options`` that are not None replace its values."""
        values = dict(cfg.get("proposals") or {})
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"{cfg.filename}: proposals has no key {key!r}{nearest(key, known)}")
        values |= {key: value for key, value in options.items() if value is not None}
        for key, value in values.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"proposals.{key} = {value!r}: needs a whole number, 1 or more")
        return cls(**values)

    def shard_size(self, images: int) -> int:
        """Images in a unit of work."""
        return self.images_per_shard or min(SHARD_IMAGES, max(SHARDS, -(-images // SHARDS)))


@dataclass(frozen=True)
class Subset:
    """The images of an annotation file, and the store for their proposals."""

    name: str
    ann_file: Path
    fingerprint: str
    annotations: Annotations
    photos: dict[int, Photo]
    store: Path
    split: Split | None

    @classmethod
    def read(cls, cfg: Config, name: str, out: str | Path | None = None) -> "Subset":
        """The subset ``name`` (``train`` or ``val``) of a config; ``out`` is another place for the store."""
        for key in (f"{name}_ann", f"{name}_prefix", *(() if out else (f"proposal_store_{name}",))):
            if not isinstance(cfg.get(key), str):
                raise UserError(f"{cfg.filename}: {key} is not set; it says where in data_root that is")
        root = Path(cfg.get("data_root") or "")
        ann_file = root / cfg[f"{name}_ann"]
        if not ann_file.is_file():
            raise UserError(f"{ann_file}: not found ({name}_ann of the config): make it with "
                            "tools/build_zsl_dataset.py, or point --data-root at the dataset")
        annotations = load_annotations(ann_file)
        folder = root / cfg[f"{name}_prefix"]
        photos = {image.id: Photo(image.id, str(image_path(image, folder)), image.height, image.width)
                  for image in annotations.images}
        if not photos:
            raise UserError(f"{ann_file}: has no images")
        split = get_split(cfg.split, root) if isinstance(cfg.get("split"), str) else None
        store = Path(out) if out else root / cfg[f"proposal_store_{name}"]
        return cls(name, ann_file, fingerprint(ann_file), annotations, photos, store, split)

    def groups(self) -> dict[str, list[int]]:
        """Labels of the groups of classes to report apart."""
        return self.split.all_groups() if self.split else {"all": list(range(len(self.annotations.categories)))}

    def objects(self) -> Callable[[int, np.ndarray], ImageBoxes]:
        """A function of an image id and proposals that adds the image's objects (not crowds, not excluded classes)."""
        categories = self.annotations.categories
        labels = {category.id: index for index, category in enumerate(categories)}
        if self.split:
            labels = {c.id: self.split.label(c.name) for c in categories if c.name in self.split}
        by_image = self.annotations.by_image()

        def with_objects(image_id: int, proposals_N4: np.ndarray) -> ImageBoxes:
            wanted = [a for a in by_image[image_id] if a.category_id in labels and not a.iscrowd]
            xywh_G4 = np.array([a.bbox for a in wanted], np.float64).reshape(-1, 4)
            xyxy_G4 = np.concatenate([xywh_G4[:, :2], xywh_G4[:, :2] + xywh_G4[:, 2:]], axis=1)
            return ImageBoxes(xyxy_G4, np.array([labels[a.category_id] for a in wanted], np.int64), proposals_N4)

        return with_objects


def configuration(cfg: Config) -> dict:
    """What of a config decides the boxes, as JSON-ready dicts."""
    sections = plain(cfg)
    model = {part: sections["model"].get(part) for part in ("backbone", "neck", "rpn_head", "data_preprocessor")}
    model["backbone"].pop("init_cfg", None)
    return {"model": model, "test_cfg": sections["model"]["test_cfg"]["rpn"],
            "pipeline": sections["test_dataloader"]["dataset"]["pipeline"]}
