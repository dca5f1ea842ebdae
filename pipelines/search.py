"""Find regions of a store by words, by boxes of example pictures, or by both.

    ovd search "a striped red star" --k 20 --show-dir work_dirs/found
    ovd search "dotted red star" "plain green drop" --config configs/shapes/vild.py
    ovd search --image photo.jpg --box 40,60,200,220 --config configs/shapes/vild.py
    ovd search "in the dark" --image photo.jpg --box 40,60,200,220 --text-weight 0.3 --config configs/shapes/vild.py

Words are put into prompt templates as class names are; --as-is embeds them as they stand. Uses the index that
`ovd build-index` made; without one it reads the whole store. Without --config and --store it takes the region store of
the one dataset in configs/_base_/datasets that has one. See docs/search.md.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ovd.clip.towers import ClipModel
    from ovd.stores.hits import Hit
    from ovd.stores.region_index import RegionIndex
    from ovd.stores.shards import RegionStore

DISTINCT = ("object", "image", "off")
_SHOWN = 100  # tiles of a contact sheet at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/search_regions.py``."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what to look for; several are several queries")
    how = parser.add_argument_group("the query")
    how.add_argument("--style", default="vild", metavar="STYLE", help="prompt templates that a text is put into, as in "
                     "class-embeddings: vild, detpro, single, ... (%(default)s); an article before it is left out")
    how.add_argument("--as-is", action="store_true", help="embed the texts as they stand: for whole sentences")
    how.add_argument("--image", action="append", default=[], metavar="FILE", help="an example picture; repeatable")
    how.add_argument("--box", action="append", default=[], metavar="X1,Y1,X2,Y2", help="what of it is the example, in "
                     "its pixels (default: all); repeatable: each of its own --image, or all of the one; the mean of "
                     "several examples is looked for")
    how.add_argument("--text-weight", type=float, default=0.5, metavar="W", help="of a text that is blended with "
                     "examples, 0 to 1 (%(default)s)")
    where = parser.add_argument_group("where to look")
    where.add_argument("--config", metavar="CONFIG", help="the config that says where region store, annotations and "
                       "images are and which CLIP it is (default: that of the one dataset that has a store)")
    where.add_argument("--data-root", help="use the dataset in this folder instead of the config's data_root")
    where.add_argument("--subset", choices=("train", "val"), default="train", help="of the config (default: train)")
    where.add_argument("--store", metavar="DIR", help="the region store (default: the config's)")
    where.add_argument("--index", metavar="FILE", help="its index (default: the store's name with .faiss, if it is "
                       "there; else the store is read)")
    where.add_argument("--scan", action="store_true", help="read the store and use no index: an exact search")
    where.add_argument("--ann", metavar="FILE", help="annotation file that has the images' file names (default: the "
                       "config's)")
    where.add_argument("--images", metavar="DIR", help="the folder that those are in (default: the config's)")
    where.add_argument("--pretrained", metavar="CLIP", help="the CLIP that made the store (default: the config's "
                       "regions.pretrained)")
    where.add_argument("--model", metavar="NAME", help="architecture of a weights file that does not say it")
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                       help="where the query is embedded (default: a GPU where there is one)")
    where.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")
    shown = parser.add_argument_group("hits")
    shown.add_argument("--k", type=int, default=20, help="hits of each query (%(default)s)")
    shown.add_argument("--distinct", choices=DISTINCT, default="object", help="object: leave out boxes that overlap a "
                       "better hit of their image by an IoU above 0.5 (default); image: the best of an image; off: all")
    shown.add_argument("--json", dest="json_file", metavar="FILE", help="write the hits")
    shown.add_argument("--show-dir", metavar="DIR", help="write a contact sheet of each query, and results.json")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/search_regions.py`` and ``ovd search``."""
    options = {key: value for key, value in vars(args).items() if key not in ("texts", "image", "box", "cfg_options")}
    search(args.texts, examples=_examples(args.image, args.box), options=args.cfg_options, **options)
    return 0


@dataclass(frozen=True)
class ImageFile:
    """An image of the annotation file: its path below the images' folder, and its size in pixels."""

    name: str
    width: int
    height: int


@dataclass
class Found:
    """A query and its hits, best first."""

    query: str
    hits: "list[Hit]" = field(default_factory=list)

    def plain(self, files: "Mapping[int, ImageFile]") -> dict[str, Any]:
        """As data for a json file."""
        return {"query": self.query, "hits": [
            {"rank": rank, "score": round(hit.score, 6), "image_id": hit.image_id,
             **({"file": files[hit.image_id].name} if files else {}),
             "box": [round(value, 2) for value in hit.box], "position": hit.position,
             "objectness": round(hit.objectness, 6)} for rank, hit in enumerate(self.hits, 1)]}


def search(texts: Sequence[str], *, examples: Sequence[tuple[str, Sequence[float] | None]] = (),
           style: str = "vild", as_is: bool = False, text_weight: float = 0.5, config: str | Path | None = None,
           options: Sequence[str] | Mapping[str, Any] = (), data_root: str | Path | None = None, subset: str = "train",
           store: str | Path | None = None, index: str | Path | None = None, scan: bool = False,
           ann: str | Path | None = None, images: str | Path | None = None, pretrained: str | None = None,
           model: str | None = None, device: str = "auto", k: int = 20, distinct: str = "object",
           json_file: str | Path | None = None, show_dir: str | Path | None = None) -> list[Found]:
    """Search a region store, print the hits of each query, and write what is asked for.

    Args:
        examples: picture files and boxes x1, y1, x2, y2 in their pixels, None for all of the picture. With texts, each
            text is blended with the mean of the examples.
        options: changes of the config.
        Others: as the options of the command line.

    Raises:
        UserError: wrong or missing input; a CLIP that did not make the store; a stale index.
    """
    if not texts and not examples:
        raise UserError("nothing to look for: give a text, or an example with --image FILE --box X1,Y1,X2,Y2")
    if not 0 <= text_weight <= 1 or k < 1:
        raise UserError(f"--text-weight {text_weight:g} --k {k}: needs a weight of 0 to 1 and one hit or more")
    from ovd.vocabulary.prompts import check_names, get_style
    from pipelines.chosen_config import chosen_config
    from pipelines.region_settings import store_of

    if texts:
        check_names(texts)
    prompts = None if as_is else get_style(style)
    cfg = chosen_config(config, store, subset, options, data_root, "--config CONFIG")
    from ovd.engine.launch import choose_device
    from ovd.engine.marks import FLAG, marked, warn
    from ovd.stores.hits import find_hits
    from ovd.stores.shards import RegionStore

    settings = cfg.get("regions") or {}
    if not (pretrained or settings.get("pretrained")):
        raise UserError("no CLIP is named: pass the one that made the store with --pretrained, or a config with "
                        "regions.pretrained")
    opened = RegionStore(store or store_of(cfg, subset))
    searched = _opened_index(opened, index, scan)
    files, folder = _image_files(cfg, subset, ann, images)
    if show_dir is not None and folder is None:
        raise UserError("--show-dir: nothing says where the images are; pass --config, or --ann FILE --images DIR")
    torch_device = choose_device(device)
    from ovd.clip.queries import check_clip
    from ovd.clip.towers import load_clip

    pretrained, model = (pretrained, model) if pretrained else \
        (settings["pretrained"], model or settings.get("model"))
    clip = load_clip(pretrained, model=model, device=torch_device,
                     allow_untrained=bool(opened.manifest.flags.get(FLAG)))
    check_clip(opened, clip)
    warn(marked([opened.path]), "The hits serve")
    start = time.perf_counter()
    labels, queries_QD = _queries(clip, opened, texts, prompts, examples, text_weight)
    embedded = time.perf_counter()
    results = [Found(label, hits) for label, hits in zip(labels, find_hits(searched, opened, queries_QD, k, distinct))]
    seconds = time.perf_counter() - embedded
    if files:
        _check_files(results, files, opened)
    for found in results:
        _print(found, files)
        if len(found.hits) < k and searched.kind.startswith("ivf"):
            print("note: the lists that the index looks into hold no more; --scan finds the rest")
    print(f"{len(results)} queries embedded in {embedded - start:.2f} s, {len(searched):,} regions searched in "
          f"{seconds:.2f} s")
    if json_file is not None:
        _save(Path(json_file), results, files)
    if show_dir is not None:
        how = "no index" if searched.kind == "scan" else f"{searched.kind} index"
        _show(Path(show_dir), results, files, folder, f"{opened.path}, {how}")
        _save(Path(show_dir, "results.json"), results, files)
    return results


def _examples(images: Sequence[str], boxes: Sequence[str]) -> list[tuple[str, list[float] | None]]:
    """Pictures and boxes of the command line, paired."""
    if boxes and not images:
        raise UserError("--box: of which picture? Name it with --image FILE")
    if boxes and len(images) not in (1, len(boxes)):
        raise UserError(f"{len(images)} times --image and {len(boxes)} times --box: give one picture for all boxes, or "
                        "one for each")
    parsed = []
    for text in boxes:
        try:
            box = [float(value) for value in text.split(",")]
        except ValueError:
            box = []
        if len(box) != 4:
            raise UserError(f"--box {text}: needs four numbers X1,Y1,X2,Y2 in pixels of the picture")
        parsed.append(box)
    if not parsed:
        return [(image, None) for image in images]
    return list(zip(images if len(images) > 1 else images * len(parsed), parsed))


def _opened_index(store: "RegionStore", file: str | Path | None, scan: bool) -> "RegionIndex":
    from ovd.stores.region_index import RegionIndex, index_file

    if scan and file is not None:
        raise UserError(f"--scan uses no index, --index {file} names one: give one of them")
    usual = index_file(store.path)
    if not scan and (file is not None or usual.exists()):
        return RegionIndex.load(file or usual, store)
    searched = RegionIndex.scan(store)
    if not scan:
        print(f"no index at {usual} (ovd build-index makes it): reading all {len(searched):,} regions of {store.path}")
    return searched


def _image_files(cfg: Mapping[str, Any], subset: str, ann: str | Path | None,
                 folder: str | Path | None) -> tuple[dict[int, ImageFile], Path | None]:
    """Image files by id, none where nothing names an annotation file; and the folder that they are in."""
    from ovd.data.annotations import image_path, load_images
    from pipelines.region_settings import variable

    root = Path(cfg.get("data_root") or "")
    if ann is None and cfg:
        ann = root / variable(cfg, f"{subset}_ann")
    if folder is None and cfg:
        folder = root / variable(cfg, f"{subset}_prefix")
    if ann is None:
        return {}, None
    files = {image.id: ImageFile(image_path(image, "").as_posix(), image.width, image.height)
             for image in load_images(ann)}
    return files, Path(folder) if folder else None


def _check_files(results: Sequence[Found], files: Mapping[int, ImageFile], store: "RegionStore") -> None:
    for image_id in (hit.image_id for found in results for hit in found.hits):
        if image_id not in files:
            raise UserError(f"{store.path}: has image {image_id}, which the annotation file does not have: name that "
                            "of the store's images, with --subset or --ann")


def _queries(clip: "ClipModel", store: "RegionStore", texts: Sequence[str], style: Any,
             examples: Sequence[tuple[str, Sequence[float] | None]],
             text_weight: float) -> "tuple[list[str], np.ndarray]":
    """What each query is called, and their unit rows ``[Q, D]``."""
    from ovd.clip.queries import blended, example_rows, text_rows, unit_rows

    if not examples:
        return list(texts), text_rows(clip, texts, style)
    example_D = unit_rows(example_rows(clip, store, examples).mean(axis=0))
    label = Path(examples[0][0]).name if len(examples) == 1 else f"{len(examples)} examples"
    if not texts:
        return [label], example_D[None]
    return [f"{text} + {label}" for text in texts], blended(text_rows(clip, texts, style), example_D, text_weight)


def _print(found: Found, files: Mapping[int, ImageFile]) -> None:
    print(f"\n{found.query}" + ("" if found.hits else ": nothing found"))
    width = max([4, *(len(files[hit.image_id].name) for hit in found.hits)]) if files else 0
    if found.hits:
        print(f"{'rank':>5}  {'cosine':>6}  {'image':>12}  {'file' if files else '':<{width}}  box (x1 y1 x2 y2)")
    for rank, hit in enumerate(found.hits, 1):
        name = files[hit.image_id].name if files else ""
        box = " ".join(f"{value:6.1f}" for value in hit.box)
        print(f"{rank:>5}  {hit.score:6.3f}  {hit.image_id:>12}  {name:<{width}}  {box}")


def _save(path: Path, results: Sequence[Found], files: Mapping[int, ImageFile]) -> None:
    from ovd.stores.atomic import write_bytes

    text = json.dumps([found.plain(files) for found in results], indent=1, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())
    print(f"hits: {path}")


def _show(folder: Path, results: Sequence[Found], files: Mapping[int, ImageFile], images: Path, where: str) -> None:
    from ovd.data.rgb import load_rgb
    from ovd.evaluation.contact_sheet import Tile, contact_sheet, file_stem
    from ovd.stores.atomic import atomic_write

    def tiles(found: Found) -> Iterator[Tile]:
        for rank, hit in enumerate(found.hits[:_SHOWN], 1):
            file = files[hit.image_id]
            picture = load_rgb(images / file.name, file.width, file.height)
            yield Tile(picture, hit.box, f"{rank}    {hit.score:.3f}", f"image {hit.image_id}")

    for number, found in enumerate(results, 1):
        path = folder / f"{number:02d}-{file_stem(found.query, 'query')}.png"
        shown = f" (the first {_SHOWN} are shown)" if len(found.hits) > _SHOWN else ""
        with atomic_write(path) as temporary:
            contact_sheet(found.query, f"{len(found.hits)} hits{shown} in {where}", tiles(found)).save(temporary, "PNG")
        print(f"picture: {path}")
