"""What was asked for: a config or files, and which images of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovd.data.annotations import Annotation, Annotations, image_path, load_annotations
from ovd.errors import UserError, nearest
from ovd.evaluation.audit_pictures import Pictures
from ovd.vocabulary.classes import canonical
from ovd.vocabulary.splits import Split, get_split

TRIED = 20  # images of which at least one must be there


@dataclass(frozen=True)
class Request:
    """The options that all sorts of pictures share; see ``ovd show annotations --help``."""

    config: str | Path | None = None
    data_root: str | Path | None = None
    subset: str = "train"
    annotations: str | Path | None = None
    image_root: str | Path | None = None
    images: int = 12
    seed: int = 0
    image_ids: Sequence[int] | None = None
    classes: Sequence[str] = ()
    out: str | Path = "work_dirs/show"

    @classmethod
    def take(cls, options: dict[str, Any]) -> "Request":
        """Those of ``options`` that are a request's, which are removed from it."""
        return cls(**{one.name: options.pop(one.name) for one in fields(cls) if one.name in options})

    @cached_property
    def cfg(self) -> Mapping[str, Any]:
        """The config; an empty one where none is named.

        Raises:
            UserError: One that cannot be loaded.
        """
        if self.config is None:
            if self.data_root:
                raise UserError(f"--data-root {self.data_root}: goes with a CONFIG; name the files otherwise "
                                "(--annotations, --image-root)")
            return {}
        from ovd.engine.config import load_config

        return load_config(self.config, data_root=self.data_root)

    def path(self, key: str) -> Path | None:
        """A path that the config names, in its ``data_root``; None where it names none."""
        value = self.cfg.get(key)
        return Path(self.cfg.get("data_root") or "", value) if isinstance(value, str) and value else None

    def required(self, given: str | Path | None, key: str, option: str) -> Path:
        """A path from an option, else from the config.

        Raises:
            UserError: Neither has it, or there is nothing.
        """
        path = Path(given) if given else self.path(key)
        if path is None:
            where = f"{self.config} does not set {key}" if self.config else "no CONFIG is named"
            raise UserError(f"{where}: pass {option}")
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give another with {option}"
                            + ("" if given else ", or --data-root"))
        return path

    def split(self, name: str | None = None) -> Split | None:
        """The split that is named, else the config's; None where there is none."""
        name = name or self.cfg.get("split")
        return get_split(name, self.cfg.get("data_root") or ".") if isinstance(name, str) else name

    def dataset(self, annotations: str | Path | None = None) -> "Dataset":
        """The annotated images; ``annotations`` is another file than the one that was asked for."""
        path = self.required(annotations or self.annotations, f"{self.subset}_ann", "--annotations FILE")
        root = self.required(self.image_root, f"{self.subset}_prefix", "--image-root DIR")
        dataset = Dataset(path, root, load_annotations(path))
        dataset.check_root()
        return dataset

    def choose(self, dataset: "Dataset", among: Sequence[int] | None = None) -> list[int]:
        """The images to draw, ascending: those named, else some at random, with one of the classes if any are named.

        Args:
            among: Only these; by default all images of the dataset.

        Raises:
            UserError: An image or a class that is not there, or nothing to choose from.
        """
        if self.images < 1:
            raise UserError(f"--images {self.images}: needs 1 or more")
        known = set(dataset.pictures.photos)
        if self.image_ids:
            for image_id in self.image_ids:
                if image_id not in known:
                    raise UserError(f"--image-ids {image_id}: {dataset.path} has no such image"
                                    f"{nearest(str(image_id), sorted(map(str, known))[:20000])}")
            return list(dict.fromkeys(self.image_ids))
        ids = sorted(known if among is None else known & set(among))
        if self.classes:
            wanted = dataset.labels_of(self.classes)
            ids = [i for i in ids if any(a.category_id in wanted for a in dataset.objects[i])]
            if not ids:
                raise UserError(f"{dataset.path}: no image has a box of {', '.join(self.classes)}")
        if not ids:
            raise UserError(f"{dataset.path}: has no image to draw")
        chosen = np.random.default_rng(self.seed).permutation(len(ids))[:self.images]
        return sorted(ids[i] for i in chosen)


@dataclass(frozen=True)
class Dataset:
    """An annotation file and the folder of its images."""

    path: Path
    root: Path
    annotations: Annotations
    objects: dict[int, list[Annotation]] = field(init=False, repr=False)
    pictures: Pictures = field(init=False, repr=False)
    names: dict[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", self.annotations.by_image())
        object.__setattr__(self, "pictures", Pictures.of(self.annotations.images, self.root))
        object.__setattr__(self, "names", {c.id: c.name for c in self.annotations.categories})

    def check_root(self) -> None:
        """Refuse a folder that has none of some images; UserError with the folder below it that has them, if any."""
        some = self.annotations.images[:TRIED]
        if not some or any(image_path(image, self.root).is_file() for image in some):
            return
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir()):
            if image_path(some[0], folder).is_file():
                raise UserError(f"{self.root}: the images of {self.path} are in {folder}: pass --image-root {folder}")
        raise UserError(f"{image_path(some[0], self.root)}: no such image, nor are those after it: give the folder "
                        f"that the file names in {self.path} are relative to (--image-root)")

    def labels_of(self, classes: Sequence[str]) -> set[int]:
        """Category ids of class names; UserError with the nearest names for an unknown one."""
        ids = {canonical(name): category_id for category_id, name in self.names.items()}
        for name in classes:
            if canonical(name) not in ids:
                raise UserError(f"--class {name}: {self.path} has no such class{nearest(name, self.names.values())}")
        return {ids[canonical(name)] for name in classes}
