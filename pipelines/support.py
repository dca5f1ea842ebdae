"""Suggest boxes that could serve as support (example boxes) of a class, for a person to confirm.

    ovd find-support CONFIG --class "dotted red star" --k 10 --out support.json --show-dir work_dirs/support
    ovd find-support CONFIG --class gadget --example 10000005:40,60,120,130 --k 10 --out support.json
    ovd find-support CONFIG --class "plain red star" --from-annotations --store STORE --k 10 --out support.json

Candidates are the regions of a store of proposals, ranked by their cosine to the class's text, to --text, to the mean
of the examples, or to text and examples blended. Boxes of one object, and the same pixels in two images, count once. Of
the best, k are chosen by maximal marginal relevance: --diversity is how much they are to differ. --from-annotations
chooses among the annotated objects of the class; the store is then one of annotated boxes (see ovd audit --help).

OUT is a COCO-style json; the examples come first, then the suggestions. Delete what is wrong.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from ovd.data.annotations import Annotations, Image
    from ovd.evaluation.audit_pictures import Pictures
    from ovd.fewshot.candidates import Candidates, Example
    from ovd.stores.shards import RegionStore

STAGE = "find-support"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/find_support.py``."""
    add = parser.add_argument
    add("config", help="the config file")
    add("--class", dest="name", required=True, metavar="NAME", help="the class; without --text and --example one of "
        "the config's class head, whose text is then looked for")
    add("--text", help="what it looks like, in words; put into prompt templates as class names are")
    add("--example", action="append", default=[], metavar="IMAGE_ID:X1,Y1,X2,Y2", help="a box of the class, in pixels "
        "of an image of the annotation file; repeatable")
    add("--text-weight", type=float, default=0.5, metavar="W", help="of --text that is blended with examples, 0 to 1 "
        "(%(default)s)")
    add("--k", type=int, default=10, help="boxes to suggest (%(default)s)")
    add("--pool", type=int, metavar="N", help="the best N are chosen from (default: 10 times k, at least 100)")
    add("--diversity", type=float, default=0.3, metavar="D", help="0 takes the most relevant ones, 1 the most unlike "
        "ones of the pool (%(default)s)")
    add("--from-annotations", action="store_true", help="choose among the annotated objects of the class; without a "
        "text and examples the most typical ones")
    add("--subset", choices=("train", "val"), default="train", help="images to look in (default: train)")
    add("--store", metavar="DIR", help="the region store (default: the config's; with --from-annotations "
        "regions/annotated_SUBSET in data_root)")
    add("--index", metavar="FILE", help="the index of that store (default: the one beside it; without one, the store "
        "is searched itself)")
    add("--class-head", metavar="FILE", help="text classes (default: the config's class_head)")
    add("--pretrained", metavar="CLIP", help="the CLIP that made the store (default: the config's regions.pretrained)")
    add("--out", required=True, metavar="FILE", help="the json to write")
    add("--show-dir", metavar="D", help="write a contact sheet into this folder")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where text and examples are embedded")
    add("--data-root", help="use the dataset in this folder instead of the config's data_root")
    add("--overwrite", action="store_true", help="choose again")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/find_support.py`` and ``ovd find-support``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "cfg_options", "example")}
    find_support(args.config, examples=[read_example(text) for text in args.example], options=args.cfg_options,
                 **options)
    return 0


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for, as unit rows: text, examples, and what is made of them; without a row, typical objects."""

    row: "np.ndarray | None"
    text: "np.ndarray | None" = None
    examples: "np.ndarray | None" = None


def read_example(text: str) -> "Example":
    """``IMAGE_ID:X1,Y1,X2,Y2`` as an image id and a box."""
    match = re.fullmatch(r"\s*(\d+)\s*:(.*)", text)
    try:
        box = tuple(float(value) for value in match[2].split(",")) if match else ()
    except ValueError:
        box = ()
    if len(box) != 4:
        raise UserError(f"--example {text}: is not IMAGE_ID:X1,Y1,X2,Y2, such as 397133:20,30,140,160")
    return int(match[1]), box


def find_support(config: str | Path, *, name: str, text: str | None = None, examples: "Sequence[Example]" = (),
                 text_weight: float = 0.5, k: int = 10, pool: int | None = None, diversity: float = 0.3,
                 from_annotations: bool = False, subset: str = "train", store: str | Path | None = None,
                 index: str | Path | None = None, class_head: str | Path | None = None,
                 pretrained: str | None = None, out: str | Path, show_dir: str | Path | None = None,
                 device: str = "auto", data_root: str | Path | None = None, overwrite: bool = False,
                 options: Sequence[str] | Mapping[str, Any] = ()) -> Path:
    """Choose support for a class and write it; a file that is current is left.

    Args:
        examples: image ids, and boxes x1, y1, x2, y2 in their pixels.
        options: changes of the config.
        Others: as the options of the command line.

    Returns:
        The json.

    Raises:
        UserError: an unknown class, an example that is not in its image, stores and CLIPs that do not belong together.
    """
    pool = max(10 * k, 100) if pool is None else pool
    _check_numbers(k, pool, diversity, text_weight)
    from ovd.data.annotations import load_annotations
    from ovd.engine.config import load_config
    from ovd.engine.marks import marked, warn
    from ovd.evaluation.audit_pictures import Pictures
    from ovd.evaluation.contact_sheet import file_stem
    from ovd.fewshot.candidates import distinct, searched, without_examples
    from ovd.fewshot.retrieval import choose
    from ovd.fewshot.support_file import support_json
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, publish
    from ovd.stores.region_index import RegionIndex, index_file
    from ovd.stores.shards import RegionStore
    from pipelines.region_settings import store_of, variable

    cfg = load_config(config, options, data_root)
    root, prefix = Path(cfg.get("data_root") or ""), variable(cfg, f"{subset}_prefix")
    ann_file = root / variable(cfg, f"{subset}_ann")
    annotations = load_annotations(ann_file)
    images = {image.id: image for image in annotations.images}
    usual = root / f"regions/annotated_{subset}" if from_annotations else store_of(cfg, subset)
    regions = RegionStore(store or usual)
    if regions.kind != "regions":
        raise UserError(f"{regions.path}: a store of {regions.kind} has no embeddings; make one with ovd embed-regions")
    index_path = Path(index) if index else index_file(regions.path)
    if from_annotations or (not index and not index_path.exists()):
        index_path = None
    _check_examples(examples, images, ann_file)
    head_path = Path(class_head) if class_head else root / cfg.class_head if cfg.get("class_head") else None
    by_head = not text and not examples and not from_annotations
    if from_annotations:
        _check_class(name, [category.name for category in annotations.categories], ann_file)

    record = {
        "config": {"class": name, "text": text, "examples": [[i, list(box)] for i, box in examples], "k": k,
                   "pool": pool, "diversity": diversity, "text_weight": text_weight, "subset": subset,
                   "from_annotations": from_annotations},
        "inputs": {"annotations": fingerprint(ann_file), "regions": fingerprint(regions.path),
                   **({"index": fingerprint(index_path)} if index_path else {}),
                   **({"class_head": fingerprint(head_path)} if by_head and head_path else {})},
    }
    out = Path(out)
    sheet = Path(show_dir, f"{file_stem(name, 'support')}.png") if show_dir else None
    if current_or_remove(out, STAGE, **record, overwrite=overwrite) and (sheet is None or sheet.exists()):
        print(f"{out} is up to date")
        return out
    pictures = Pictures.of(annotations.images, root / prefix)
    sources = marked([regions.path])
    warn(sources, "The suggestions serve")
    if by_head:
        query = _query_of_head(name, head_path, regions)
    else:
        query = _query(cfg, regions, text, examples, text_weight, pretrained, device, pictures)
    if from_annotations:
        found = _annotated(regions, annotations, ann_file, name, query, pool)
    else:
        index = RegionIndex.load(index_path, regions) if index_path else RegionIndex.scan(regions)
        found = searched(index, regions, query.row, pool + len(examples))
        _require_known(found, images, regions, ann_file)
    found = distinct(without_examples(found, examples), pictures)
    if not len(found):
        raise UserError(f"{regions.path}: no candidates for {name!r} beside the examples")
    chosen = found.take(choose(found.scores, found.rows, k, 1 - diversity, query.examples))
    extra = [_scores(chosen, rank, query, None if from_annotations else regions) for rank in range(len(chosen))]
    contents = support_json(name, annotations, examples, chosen, extra, from_annotations)
    contents["info"] |= {"image_folder": prefix, **{key: value for key, value in record["config"].items() if value},
                         "made_from": record["inputs"]}
    manifest = Manifest("support", STAGE, **record, counts={"examples": len(examples), "suggested": len(chosen)},
                        flags={"untrained": True} if sources else {})
    with publish(out, manifest) as (temporary, _):
        temporary.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _print(contents, k, len(chosen))
    print(f"support: {out} ({manifest.content[:15]})")
    if sheet:
        _show(sheet, contents, pictures)
    return out


def _check_numbers(k: int, pool: int, diversity: float, text_weight: float) -> None:
    if k < 1 or pool < k:
        raise UserError(f"--k {k} --pool {pool}: needs one box or more, and a pool of at least as many")
    for option, value in (("--diversity", diversity), ("--text-weight", text_weight)):
        if not 0 <= value <= 1:
            raise UserError(f"{option} {value:g}: needs a number from 0 to 1")


def _check_class(name: str, known: Sequence[str], where: Path) -> None:
    from ovd.vocabulary.classes import canonical

    if canonical(name) not in {canonical(other) for other in known}:
        raise UserError(f"{where}: has no class {name!r}{nearest(name, known)}")


def _check_examples(examples: "Sequence[Example]", images: "Mapping[int, Image]", ann_file: Path) -> None:
    import numpy as np

    from ovd.clip.crops import check_boxes

    for image_id, box in examples:
        where = f"--example {image_id}:{','.join(f'{value:g}' for value in box)}"
        if image_id not in images:
            raise UserError(f"{where}: {ann_file} has no image {image_id}{nearest(str(image_id), map(str, images))}")
        image = images[image_id]
        try:
            check_boxes(np.array([box]), image.width, image.height)
        except UserError as error:
            raise UserError(f"{where}: {str(error).partition(') ')[2]}") from error


def _query_of_head(name: str, path: Path | None, regions: "RegionStore") -> Query:
    from ovd.clip.queries import unit_rows
    from ovd.engine.preflight import check_pair
    from ovd.stores.class_registry import load_classes

    if path is None:
        raise UserError(f"--class {name}: the config has no class_head with its text; say what it looks like with "
                        "--text, or show it with --example")
    head = load_classes(path)
    check_pair(path, head, regions.path, regions)
    try:
        weights_MD = head.select([name]).weights[0].numpy()
    except UserError as error:
        raise UserError(f"{path}: {error}; for a class of your own say what it looks like with --text, or show it with "
                        "--example") from error
    row = unit_rows(unit_rows(weights_MD).mean(axis=0))
    return Query(row, row)


def _query(cfg: "Config", regions: "RegionStore", text: str | None, examples: "Sequence[Example]", text_weight: float,
           pretrained: str | None, device: str, pictures: "Pictures") -> Query:
    if not text and not examples:
        return Query(None)
    from ovd.clip.queries import blended, check_clip, example_rows, text_rows, unit_rows
    from ovd.clip.towers import load_clip
    from ovd.engine.launch import choose_device
    from ovd.vocabulary.prompts import get_style

    settings = cfg.get("regions") or {}
    if not (pretrained or settings.get("pretrained")):
        raise UserError(f"{cfg.filename}: no CLIP is named; set regions.pretrained, or pass --pretrained")
    model = None if pretrained else settings.get("model")
    clip = load_clip(pretrained or settings["pretrained"], model=model, device=choose_device(device),
                     allow_untrained=bool(regions.manifest.flags.get("untrained")))
    check_clip(regions, clip)
    text_D = text_rows(clip, [text], get_style("vild"))[0] if text else None
    if not examples:
        return Query(text_D, text_D)
    rows_ED = example_rows(clip, regions, [(pictures.photos[image_id].path, box) for image_id, box in examples])
    mean_D = unit_rows(rows_ED.mean(axis=0))
    row = mean_D if text_D is None else blended(text_D[None], mean_D, text_weight)[0]
    return Query(row, text_D, rows_ED)


def _annotated(regions: "RegionStore", annotations: "Annotations", ann_file: Path, name: str, query: Query,
               pool: int) -> "Candidates":
    from ovd.fewshot.annotated import AnnotatedObjects
    from ovd.fewshot.candidates import annotated
    from ovd.vocabulary.classes import canonical

    names = [category.name for category in annotations.categories]
    objects = AnnotatedObjects.join(regions, annotations, ann_file, names)
    label = [canonical(other) for other in names].index(canonical(name))
    if not (objects.labels == label).any():
        raise UserError(f"{ann_file}: has no object of the class {name!r} with an embedding in {regions.path}")
    return annotated(objects, label, query.row, pool)


def _scores(chosen: "Candidates", rank: int, query: Query, proposals: "RegionStore | None") -> dict[str, float]:
    """Cosines of a box to the text and to the nearest example, and its score as a proposal."""
    found = {}
    for key, rows in (("text_score", query.text), ("example_score", query.examples)):
        if rows is not None:
            found[key] = round(float((rows @ chosen.rows[rank]).max()), 4)
    if proposals is not None:
        scores = proposals.view(int(chosen.image_ids[rank])).scores
        found["objectness"] = round(float(scores[chosen.positions[rank]]), 4)
    return found


def _require_known(found: "Candidates", images: "Mapping[int, Image]", regions: "RegionStore", ann_file: Path) -> None:
    for image_id in found.image_ids.tolist():
        if image_id not in images:
            raise UserError(f"{regions.path}: has image {image_id}, which {ann_file} does not have: they belong to "
                            "different data; name the right one with --store or --subset")


def _print(contents: dict[str, Any], k: int, found: int) -> None:
    files = {image["id"]: image.get("file_name") or image.get("coco_url") for image in contents["images"]}
    for record in contents["annotations"]:
        x, y, width, height = record["bbox"]
        said = f"  (annotated as {record['annotated_as']})" if record.get("annotated_as") else ""
        score = f"{record['score']:.3f}" if "score" in record else "example"
        print(f"{record.get('rank', ''):>4}  {score:>7}  {files[record['image_id']]}  {x:.0f},{y:.0f} "
              f"{width:.0f} x {height:.0f}{said}")
    if found < k:
        print(f"note: only {found} of the {k} boxes asked for are there")


def _show(sheet: Path, contents: dict[str, Any], pictures: "Pictures") -> None:
    from ovd.evaluation.contact_sheet import Tile, contact_sheet
    from ovd.stores.atomic import atomic_write

    def tiles() -> Iterator[Tile]:
        for record in contents["annotations"]:
            x, y, width, height = record["bbox"]
            caption = f"{record['rank']}    {record['score']:.3f}" if "rank" in record else "example"
            note = record.get("annotated_as") or f"image {record['image_id']}"
            yield Tile(pictures.image(record["image_id"]), (x, y, x + width, y + height), caption, note)

    title = contents["categories"][0]["name"]
    with atomic_write(sheet) as temporary:
        contact_sheet(title, "Are these support of the class?", tiles()).save(temporary, "PNG")
    print(f"picture: {sheet}")
