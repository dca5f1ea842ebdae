"""Sources of objects, of any kind and number, as embedded objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovd.clip.crops import CropRecipe
from ovd.clip.towers import ClipModel, load_clip
from ovd.data.annotations import load_annotations
from ovd.data.classification.annotated import read_annotated
from ovd.data.classification.benchmarks import read_benchmark
from ovd.data.classification.folders import read_folder
from ovd.data.classification.lists import read_csv
from ovd.data.classification.pictures import Picture
from ovd.engine.launch import choose_device
from ovd.errors import UserError
from ovd.fewshot.annotated import AnnotatedObjects
from ovd.fewshot.episodic.embedding import embed_pictures
from ovd.fewshot.episodic.objects import EmbeddedObjects
from ovd.stores.manifest import Manifest
from ovd.stores.shards import RegionStore
from ovd.vocabulary.classes import spelling


@dataclass(frozen=True)
class Sources:
    """Where objects are, and how pictures are embedded.

    Attributes:
        paths: Folders of class folders, ``.csv`` lists, COCO or LVIS ``.json`` files, region stores of annotated boxes.
        images: Image folders of the lists and json files: none (their own folder), one for all, or one for each.
        annotations: Annotation files of the region stores, one for each.
        on_error: ``"skip"`` leaves out pictures that cannot be read.
        pretrained, model, device, allow_untrained: As of :func:`ovd.clip.towers.load_clip`.
        scales: Of the crops of boxes.
        cache: Folder of the embeddings that were made before.
    """

    paths: Sequence[str]
    images: Sequence[str] = ()
    annotations: Sequence[str] = ()
    on_error: str = "stop"
    pretrained: str = "ViT-B/32"
    model: str | None = None
    scales: Sequence[float] = (1.0, 1.5)
    cache: str = "work_dirs/picture_embeddings"
    device: str = "auto"
    allow_untrained: bool = False

    def clip(self) -> ClipModel:
        """The encoder."""
        return load_clip(self.pretrained, model=self.model, device=choose_device(self.device),
                         allow_untrained=self.allow_untrained)

    def embed(self, pictures: Sequence[Picture], clip: ClipModel) -> tuple[EmbeddedObjects, list[str]]:
        """Objects of pictures, and a line for each that was left out."""
        return embed_pictures(pictures, clip, self.cache, recipe=CropRecipe("clip", tuple(self.scales)),
                              on_error=self.on_error)


def read_sources(sources: Sources, benchmark: str | None = None,
                 subset: str | None = None) -> tuple[EmbeddedObjects, list[str]]:
    """All objects of all sources, and a line for each that was left out.

    Args:
        benchmark: What the folders are, one of ``ovd.data.classification.benchmarks``; then ``subset`` of it.

    Raises:
        UserError: A source that is none, has no objects or does not fit the others.
    """
    kinds = ["benchmark" if benchmark else _kind(Path(path)) for path in sources.paths]
    images = _one_for_each(sources.images, kinds, ("csv", "json"), "--images")
    files = _one_for_each(sources.annotations, kinds, ("store",), "--annotations")
    clip, parts, skipped = None, [], []
    for path, kind, image_folder, file in zip(sources.paths, kinds, images, files):
        if kind == "store":
            parts.append(_of_store(path, file))
            continue
        if kind == "benchmark":
            pictures = read_benchmark(benchmark, path, subset)
        elif kind == "json":
            pictures, lines = read_annotated(path, image_folder or Path(path).parent, sources.on_error)
            skipped += lines
        else:
            pictures = read_csv(path, image_folder) if kind == "csv" else read_folder(path)
        clip = clip or sources.clip()
        objects, lines = sources.embed(pictures, clip)
        parts.append(objects)
        skipped += lines
    found = EmbeddedObjects.merge(parts, sources.paths)
    spelled: dict[str, str] = {}
    for name in found.names if benchmark is None else ():
        if (other := spelled.setdefault(spelling(name), name)) != name:
            raise UserError(f"{', '.join(map(str, sources.paths))}: {other!r} and {name!r} are one class name in two "
                            "spellings; write it in one")
    return found, skipped


def _kind(path: Path) -> str:
    if path.is_dir():
        return "store" if Manifest.path(path).exists() else "folder"
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix in (".csv", ".json"):
        return path.suffix[1:]
    raise UserError(f"{path}: is no source; give a folder of class folders, a .csv list, a COCO or LVIS .json, or a "
                    "region store")


def _one_for_each(given: Sequence[str], kinds: Sequence[str], takers: Sequence[str], option: str) -> list[str | None]:
    """What each source gets: None for those that take none, or where none is given."""
    places = [place for place, kind in enumerate(kinds) if kind in takers]
    values = list(given) * len(places) if len(given) == 1 else list(given)
    if values and len(values) != len(places):
        raise UserError(f"{option}: {len(given)} given for {len(places)} sources that take one "
                        f"({', '.join(takers)}); give one for each, in order")
    result: list[str | None] = [None] * len(kinds)
    for place, value in zip(places, values):
        result[place] = value
    return result


def _of_store(path: str, file: str | None) -> EmbeddedObjects:
    if file is None:
        raise UserError(f"{path}: is a region store; name the annotation file that its boxes are of with --annotations")
    store, annotations = RegionStore(path), load_annotations(file)
    names = [category.name for category in annotations.categories]
    objects = AnnotatedObjects.join(store, annotations, file, names)
    if objects.left_out:
        print(f"{path}: {objects.left_out} annotated objects have no embedding there and are left out")
    clip = store.manifest.inputs.get("clip")
    return EmbeddedObjects(tuple(names), objects.labels, objects.embeddings(range(len(objects))),
                           {} if clip is None else {"clip": clip})
