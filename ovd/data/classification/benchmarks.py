"""The few-shot classification benchmarks: how their files say which picture is of which class and which subset.

========================  =====================  =====================================================================
CUB-200-2011 (``cub``)    100 / 50 / 50 classes  folders ``NNN.Name`` below ``images``; class ids from 0: even ones are
                                                 train, id % 4 == 1 val, id % 4 == 3 test (Chen et al. 2019)
``mini-imagenet``         64 / 16 / 20           ``train.csv``, ``val.csv``, ``test.csv`` (filename,label), and
                                                 ``images`` (Ravi and Larochelle 2017)
``tiered-imagenet``       351 / 97 / 160         pickles ``SUBSET_images_png.pkl`` and ``SUBSET_labels.pkl`` (Ren et
                                                 al. 2018)
========================  =====================  =====================================================================

Pickles are read without running what they may carry. A folder or list of tiered-ImageNet's pictures needs no rule: name
its classes.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovd.data.classification.folders import read_folder
from ovd.data.classification.lists import read_csv
from ovd.data.classification.pictures import Picture
from ovd.errors import UserError, nearest
from ovd.stores.array_pickle import PickledArray, load_arrays

SUBSETS = ("train", "val", "test")


@dataclass(frozen=True)
class Benchmark:
    """How to read a subset of a benchmark, and how many classes each has."""

    read: Callable[[Path, str], list[Picture]]
    classes: Mapping[str, int]


def read_benchmark(name: str, root: str | os.PathLike, subset: str) -> list[Picture]:
    """The pictures of a subset (``train``, ``val`` or ``test``).

    Raises:
        UserError: Another benchmark or subset; files that are missing or are not the benchmark's; fewer or more
            classes than the subset has.
    """
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark named {name!r}{nearest(name, BENCHMARKS)}")
    if subset not in SUBSETS:
        raise UserError(f"{name} has no subset {subset!r}{nearest(subset, SUBSETS)}")
    root, benchmark = Path(root), BENCHMARKS[name]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder of {name}")
    pictures = benchmark.read(root, subset)
    found, expected = len({picture.name for picture in pictures}), benchmark.classes[subset]
    if found != expected:
        raise UserError(f"{root}: has {found} classes of subset {subset}, {name} has {expected}; complete it, or give "
                        "it as a plain source and name the classes")
    return pictures


def cub_subset(class_id: int) -> str:
    """The subset of a class of CUB-200-2011, ids from 0."""
    return "train" if class_id % 2 == 0 else "val" if class_id % 4 == 1 else "test"


def _read_cub(root: Path, subset: str) -> list[Picture]:
    """The class id of a folder ``NNN.Name`` is NNN - 1."""
    root = root / "images" if (root / "images").is_dir() else root
    pictures = []
    for picture in read_folder(root):
        folder = Path(picture.source).relative_to(root).parts[0]
        if not (number := re.match(r"(\d{3})\.", folder)):
            raise UserError(f"{root / folder}: is not named as CUB's classes are (001.Black_footed_Albatross)")
        if cub_subset(int(number[1]) - 1) == subset:
            pictures.append(picture)
    return pictures


def _read_mini(root: Path, subset: str) -> list[Picture]:
    return read_csv(root / f"{subset}.csv", root / "images")


def _read_tiered(root: Path, subset: str) -> list[Picture]:
    """The images are a list of arrays uint8, each a png; ``label_specific`` has a class number each."""
    images_file, labels_file = root / f"{subset}_images_png.pkl", root / f"{subset}_labels.pkl"
    labels = _field(labels_file, load_arrays(labels_file), "label_specific").tolist()
    names = _names(labels_file, len(set(labels)))
    images = load_arrays(images_file)
    if not isinstance(images, (list, tuple)) or len(images) != len(labels):
        raise UserError(f"{images_file}: is not a list of {len(labels)} encoded images, one a label of "
                        f"{labels_file.name}")
    pictures = []
    for place, (image, label) in enumerate(zip(images, labels)):
        array = image.array if isinstance(image, PickledArray) else None
        if array is None or array.dtype != np.uint8:
            raise UserError(f"{images_file}: entry {place} is not an encoded image (an array of bytes)")
        if not 0 <= label < len(names):
            raise UserError(f"{labels_file}: entry {place} is of class {label}, but there are {len(names)} names")
        pictures.append(Picture(f"{images_file}[{place}]", names[label], data=array.tobytes()))
    return pictures


def _field(path: Path, contents: Any, key: str) -> np.ndarray:
    value = contents.get(key) if isinstance(contents, Mapping) else None
    array = value.array if isinstance(value, PickledArray) else np.array(value if isinstance(value, list) else [])
    if array is None or array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise UserError(f"{path}: is not a dict whose {key!r} is a list of class numbers")
    return array


def _names(path: Path, count: int) -> list[str]:
    """The classes' names, where the labels file has one each; else their numbers, as text."""
    names = load_arrays(path).get("label_specific_str")
    if isinstance(names, (list, tuple)) and len(names) >= count and len(set(names)) == len(names) and \
            all(isinstance(name, str) for name in names):
        return list(names)
    return [f"class {number}" for number in range(count)]


BENCHMARKS: dict[str, Benchmark] = {
    "cub": Benchmark(_read_cub, {"train": 100, "val": 50, "test": 50}),
    "mini-imagenet": Benchmark(_read_mini, {"train": 64, "val": 16, "test": 20}),
    "tiered-imagenet": Benchmark(_read_tiered, {"train": 351, "val": 97, "test": 160}),
}
