"""What the stages for added classes read: the split, annotations in which novel classes have boxes, shots, words."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

    from ovd.data.annotations import Annotations
    from ovd.fewshot.shots import ShotSet
    from ovd.stores.class_heads import ClassHead
    from ovd.vocabulary.splits import Split


@dataclass(frozen=True, eq=False)
class ShotSource:
    """Annotated boxes that shots are drawn from.

    Attributes:
        path: The annotation file; its classes may be novel ones.
        image_root: The folder of its images.
        min_size, replacement: See :func:`ovd.fewshot.shots.sample_shots`.
    """

    path: Path
    image_root: Path
    annotations: "Annotations"
    min_size: float = 8.0
    replacement: bool = False

    @classmethod
    def read(cls, cfg: "Config", annotations: str | Path | None, images: str | Path | None,
             **settings: Any) -> "ShotSource":
        """As the command line says, else the config's ``support_ann`` and ``train_prefix`` in its ``data_root``.

        Raises:
            UserError: Neither names them, or there is no such file or folder.
        """
        from ovd.data.annotations import load_annotations

        path = Path(annotations) if annotations else of_config(cfg, "support_ann")
        root = Path(images) if images else of_config(cfg, "train_prefix")
        if path is None:
            raise UserError(f"{cfg.filename}: support_ann is not set, so nothing says where novel classes have boxes: "
                            "pass --annotations FILE")
        if root is None or not root.is_dir():
            raise UserError(f"{root or cfg.filename}: no folder of the images of {path}: pass --images DIR")
        return cls(path, root, load_annotations(path), **settings)

    def draw(self, names: Sequence[str], k: int, seed: int, leave_out: frozenset[int] = frozenset(),
             replacement: bool | None = None) -> "ShotSet":
        """``k`` shots of each class, none of them in an image that is to be left alone.

        Raises:
            UserError: A class with fewer boxes.
        """
        from ovd.fewshot.shots import sample_shots
        from ovd.stores.manifest import fingerprint

        records = self.annotations
        if leave_out:
            records = replace(records, images=[image for image in records.images if image.id not in leave_out],
                              annotations=[one for one in records.annotations if one.image_id not in leave_out])
        try:
            return sample_shots(records, names, k, seed, min_size=self.min_size,
                                replacement=self.replacement if replacement is None else replacement,
                                info={"file": self.path.name, "sha256": fingerprint(self.path)})
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error

    def draw_base(self, names: Sequence[str], k: int | None) -> "ShotSet | None":
        """``--base-shots``: boxes that base classes are made of; None for none.

        They are always the same ones; a class with fewer has some twice.
        """
        from ovd.fewshot.detection.evaluation import CALIBRATION_SEED

        if k is None:
            return None
        if k < 1:
            raise UserError(f"--base-shots {k}: needs one or more")
        return self.draw(names, k, CALIBRATION_SEED, replacement=True)


def of_config(cfg: "Config", key: str) -> Path | None:
    """A path that a config names, in its ``data_root``; None where it names none."""
    value = cfg.get(key)
    return Path(cfg.get("data_root") or "", value) if isinstance(value, str) else None


def split_of(cfg: "Config") -> "Split":
    """The split that a config is evaluated on.

    Raises:
        UserError: No evaluator, or a split without novel classes.
    """
    from ovd.vocabulary.splits import Split, get_split

    split = (cfg.get("test_evaluator") or {}).get("split")
    if split is None:
        raise UserError(f"{cfg.filename}: has no test_evaluator with a split, which says what classes are novel")
    if not isinstance(split, Split):
        path = Path(cfg.test_evaluator.get("data_root") or "", split)
        split = get_split(str(path) if path.is_file() else str(split))
    if not split.novel:
        raise UserError(f"{cfg.filename}: the split {split.name} has no novel classes to add")
    return split


def check_apart(cfg: "Config", source: ShotSource, sets: Iterable["ShotSet"]) -> None:
    """Refuse shots in images that are evaluated.

    Raises:
        UserError: Names one of them.
    """
    from ovd.data.annotations import image_path, load_annotations

    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    root = dataset.get("data_root") or ""
    if not dataset.get("ann_file"):
        return
    annotations = Path(root, dataset["ann_file"])
    folder = Path(root, (dataset.get("data_prefix") or {}).get("img") or "")
    evaluated = {os.path.abspath(image_path(image, folder)) for image in load_annotations(annotations).images}
    for shots in sets:
        for name, each in shots.classes.items():
            for shot in each:
                if os.path.abspath(source.image_root / shot.image) in evaluated:
                    raise UserError(f"{source.path}: {shot.image}, with a shot of {name!r}, is among the evaluated "
                                    f"images ({annotations}): take shots from other images (--annotations FILE)")


def load_sets(files: Sequence[str | Path], source: ShotSource, names: Sequence[str], k: int) -> dict[int, "ShotSet"]:
    """Shots that were written before, one set for a file, by the seed that each says (else by its position).

    Raises:
        UserError: A file that is damaged, has other classes or fewer shots, or does not fit the annotations.
    """
    from ovd.fewshot.shots import ShotSet

    sets: dict[int, ShotSet] = {}
    for position, file in enumerate(files):
        shots = ShotSet.load(file)
        try:
            shots.check_annotations(source.annotations, source.path)
            shots = shots.select(names)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        for name, each in shots.classes.items():
            if len(each) < k:
                raise UserError(f"{file}: has {len(each)} shots of {name!r}, and {k} are asked for: draw more, or pass "
                                "a smaller --shots")
        seed = shots.info.get("seed", position)
        if seed in sets:
            raise UserError(f"{file}: is of seed {seed}, as a file before it: give files of different seeds")
        sets[seed] = shots
    return sets


def made_up(cfg: "Config", head: "ClassHead", names: Sequence[str], device: Any) -> "ClassHead":
    """The classes ``names`` by words that mean nothing, in the space of ``head``.

    Raises:
        UserError: A config that names no CLIP, or another one than that of the head.
    """
    from ovd.clip.text import class_embeddings
    from ovd.clip.towers import load_clip
    from ovd.fewshot.detection.words import renamed
    from ovd.vocabulary.prompts import get_style

    regions: Mapping[str, Any] = cfg.get("regions") or {}
    if not regions.get("pretrained"):
        raise UserError(f"{cfg.filename}: names no CLIP (regions.pretrained), which made-up words need")
    clip = load_clip(regions["pretrained"], model=regions.get("model"), device=device)
    words = renamed(names)
    made = class_embeddings(clip, list(words.values()), get_style("vild"))
    head.check_space_of(made)
    return replace(made, names=tuple(words), provenance=tuple(
        {**origin, "made_up": word} for origin, word in zip(made.provenance, words.values())))
