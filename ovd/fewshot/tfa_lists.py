"""TFA's published shots: the files of a ``benchmark_Kshot`` folder (or of a seed's), one for each class.

``box_Kshot_<class>_train.txt`` of VOC lists images, ``full_box_Kshot_<class>_trainval.json`` of COCO is a COCO json
with the class's boxes. Every box of the class in what a file lists counts, and of more than K boxes, K are drawn: the
rule of TFA's loaders (fsdet/data/meta_pascal_voc.py, meta_coco.py), here by a seed. MMFewShot's benchmarks name the
same files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ovd.data.annotations import Annotations, Image, load_annotations
from ovd.errors import UserError, nearest
from ovd.fewshot.shot_sampling import Candidate, clipped, drawing_order, file_of
from ovd.fewshot.shots import Shot, ShotSet
from ovd.stores.manifest import fingerprint
from ovd.vocabulary.classes import canonical

_FILE = re.compile(r"(?P<voc>box_(?P<vk>\d+)shot_(?P<vname>.+)_train\.txt)|"
                   r"(?P<coco>full_box_(?P<ck>\d+)shot_(?P<cname>.+)_trainval\.json)")


@dataclass(frozen=True)
class TfaLists:
    """The lists of a folder: ``kind`` is ``"voc"`` or ``"coco"``, ``files`` has (K, class name) -> file."""

    folder: Path
    kind: str
    files: dict[tuple[int, str], Path]

    @classmethod
    def find(cls, folder: str | Path) -> "TfaLists":
        """The lists in ``folder``; UserError where there are none, or some of each kind."""
        folder = Path(folder)
        found: dict[str, dict[tuple[int, str], Path]] = {"voc": {}, "coco": {}}
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if match := _FILE.fullmatch(path.name):
                kind = "voc" if match["voc"] else "coco"
                found[kind][int(match["vk"] or match["ck"]), match["vname"] or match["cname"]] = path
        kinds = [kind for kind, files in found.items() if files]
        if not kinds:
            raise UserError(f"{folder}: has no lists of TFA, box_Kshot_CLASS_train.txt (VOC) or "
                            "full_box_Kshot_CLASS_trainval.json (COCO); name the benchmark_Kshot folder itself")
        if len(kinds) > 1:
            raise UserError(f"{folder}: has lists of VOC and of COCO; put them into two folders")
        return cls(folder, kinds[0], found[kinds[0]])

    @property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots that there are lists for."""
        return tuple(sorted({k for k, _ in self.files}))

    def names(self, k: int) -> tuple[str, ...]:
        """Classes that have a list of ``k`` shots, by the files' names."""
        return tuple(sorted(name for number, name in self.files if number == k))

    def number(self, k: int | None) -> int:
        """``k``, or the one number of shots that there are lists for; UserError where there are others."""
        if k is None and len(self.shots) == 1:
            return self.shots[0]
        if k not in self.shots:
            asked = "which of them is not said" if k is None else f"none of {k}"
            raise UserError(f"{self.folder}: has lists of {', '.join(map(str, self.shots))} shots, {asked}; choose one "
                            "with --shots")
        return k

    def file(self, name: str, k: int) -> Path:
        """The list of a class; UserError, with the nearest, where there is none."""
        path = self.files.get((k, name)) or self.files.get((k, canonical(name)))
        if path is None:
            file = f"box_{k}shot_{name}_train.txt" if self.kind == "voc" else f"full_box_{k}shot_{name}_trainval.json"
            raise UserError(f"{self.folder}: the class {name!r} has no list of {k} shots, {file}"
                            f"{nearest(name, self.names(k))}")
        return path


def read_tfa(lists: TfaLists, names: Sequence[str] | None = None, k: int | None = None, seed: int = 0,
             annotations: Annotations | None = None, ann_file: str | Path = "the annotation file") -> ShotSet:
    """The shots of the classes ``names`` (default: all that have a list), in that order.

    Difficult objects of VOC count, as in TFA. Of more boxes than K, each listed image gives one before any gives two.

    Args:
        k: Which lists; not needed where there is one number of shots.
        seed: For the choice among more boxes than K.
        annotations: Of the images. Needed for VOC, whose lists have no boxes: the output of ``ovd voc-to-coco`` for
            2007 and 2012 trainval. For COCO, files and ids are then those of this file (say, of 2017 instead of 2014).

    Raises:
        UserError: a class without list, an image or box that ``annotations`` do not have, a list of no box.
    """
    number = lists.number(k)
    paths = {name: lists.file(name, number) for name in names or lists.names(number)}
    if lists.kind == "voc":
        if annotations is None:
            raise UserError(f"{lists.folder}: VOC's lists name images without boxes; give --annotations, the file that "
                            "ovd voc-to-coco --sets 2007_trainval 2012_trainval makes")
        index = _Index(annotations, ann_file)
        found = {name: index.boxes_in(_listed(path), name, path) for name, path in paths.items()}
    else:
        index = None if annotations is None else _Index(annotations, ann_file)
        found = {name: _coco_boxes(path, name, index) for name, path in paths.items()}
    classes = {}
    for name, boxes in found.items():
        if not boxes:
            raise UserError(f"{paths[name]}: lists no box of the class {name!r}; fetch the list again")
        kept = drawing_order(boxes, name, seed)[:number] if len(boxes) > number else boxes
        classes[name] = tuple(Shot(one.file, one.image.id, one.box, one.record.id, (one.image.width, one.image.height))
                              for one in kept)
    files = {path.name: fingerprint(path) for path in paths.values()}
    return ShotSet(classes, {"method": f"tfa {lists.kind}", "k": number, "seed": seed, "files": files})


def _listed(path: Path) -> list[str]:
    """The images of a list, by file name without folder and suffix, each once (TFA's script may draw one twice)."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from None
    return list(dict.fromkeys(PurePosixPath(line.strip()).stem for line in lines if line.strip()))


class _Index:
    """The records of an annotation file by class and image."""

    def __init__(self, annotations: Annotations, path: str | Path) -> None:
        self.path = path
        self.images = {image.id: image for image in annotations.images}
        self.by_stem = {PurePosixPath(file_of(image)).stem: image for image in annotations.images}
        self.records = {record.id: record for record in annotations.annotations}
        self.by_image = annotations.by_image()
        self.names = {category.id: canonical(category.name) for category in annotations.categories}

    def boxes_in(self, stems: Sequence[str], name: str, listed_in: Path) -> list[Candidate]:
        found = []
        for stem in stems:
            image = self.by_stem.get(stem)
            if image is None:
                year = "2012" if "_" in stem else "2007"
                raise UserError(f"{self.path}: has no image {stem}, which {listed_in.name} lists; convert VOC{year} "
                                "trainval too (ovd voc-to-coco takes several subsets)")
            here = [record for record in self.by_image[image.id] if self.names[record.category_id] == canonical(name)]
            if not here:
                raise UserError(f"{self.path}: image {stem} has no {name!r}, for which {listed_in.name} lists it; "
                                "are these other annotations?")
            found += [Candidate(record, image, file_of(image), clipped(record.bbox, image)) for record in here]
        return found


def _coco_boxes(path: Path, name: str, index: _Index | None) -> list[Candidate]:
    loaded = load_annotations(path)
    names = {category.id: canonical(category.name) for category in loaded.categories}
    images: dict[int, Image] = {image.id: image for image in loaded.images}
    found = []
    for record in loaded.annotations:
        if names[record.category_id] != canonical(name) or record.iscrowd:
            continue
        image = images[record.image_id]
        if index is not None:
            known = index.records.get(record.id)
            if known is None or known.image_id != image.id or index.names[known.category_id] != canonical(name):
                raise UserError(f"{index.path}: has no {name!r} with the annotation id {record.id} in image {image.id}"
                                f", which {path.name} lists; give the file (or files) that all images of the lists are "
                                "in: of COCO 2014's trainval, or of 2017's train and val")
            image = index.images[image.id]
        found.append(Candidate(record, image, file_of(image), clipped(record.bbox, image)))
    return found
