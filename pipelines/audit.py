"""Audit annotations: labels that are probably wrong, duplicates, objects that may have been forgotten.

Judged by CLIP embeddings of the annotated boxes, which are made first (SUBSET is train or val):

    ovd proposals CONFIG --from-annotations --subset SUBSET --out BOXES
    ovd embed-regions CONFIG --subset SUBSET --proposals BOXES --out STORE
    ovd audit CONFIG --subset SUBSET --store STORE

Writes OUT/report.json, which has everything, and OUT/report.html, a page with pictures. After labels were corrected the
same store serves again; after boxes or images were, it is to be made again. See docs/audit.md.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from ovd.data.annotations import Annotations
    from ovd.evaluation.audit import Findings, TextClasses
    from ovd.stores.region_index import RegionIndex
    from ovd.stores.shards import RegionStore

STAGE = "audit"
LARGE = 200_000  # objects from which a search without an index takes long


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/audit_labels.py``."""
    add = parser.add_argument
    add("config", help="the config file")
    add("--subset", choices=("train", "val"), default="train", help="annotations to audit (default: train)")
    add("--store", metavar="DIR", help="the region store of the annotated boxes (default: regions/annotated_SUBSET in "
        "data_root)")
    add("--index", metavar="FILE", help="the index of that store (default: the one beside it; without one, the store "
        "is searched itself)")
    add("--class-head", metavar="FILE", help="CLIP's text classes (default: the config's class_head)")
    add("--no-text", action="store_true", help="judge labels by the neighbours alone")
    add("--proposals", metavar="DIR", help="look for forgotten objects among the proposals of this region store, made "
        "of the same images with the same CLIP and crops")
    add("--per-image", type=int, default=30, metavar="N", help="proposals of an image that are looked at, those of the "
        "highest scores (%(default)s)")
    add("--out", metavar="DIR", help="folder of the report (default: work_dirs/audit_CONFIG_SUBSET)")
    add("--show", type=int, default=60, metavar="N", help="entries of each list that the page shows (%(default)s)")
    add("--k", type=int, default=20, metavar="K", help="neighbours that vote on a label (%(default)s)")
    add("--text-weight", type=float, default=0.5, metavar="W", help="of CLIP's text classes against the neighbours' "
        "vote, 0 to 1 (%(default)s)")
    add("--data-root", help="use the dataset in this folder instead of the config's data_root")
    add("--overwrite", action="store_true", help="make the report again")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config, such as "
        "train_ann=annotations/mine.json")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/audit_labels.py`` and ``ovd audit``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "cfg_options")}
    audit_annotations(args.config, options=args.cfg_options, **options)
    return 0


def audit_annotations(config: str | Path, *, subset: str = "train", store: str | Path | None = None,
                      index: str | Path | None = None, class_head: str | Path | None = None, no_text: bool = False,
                      proposals: str | Path | None = None, per_image: int = 30, out: str | Path | None = None,
                      show: int = 60, k: int = 20, text_weight: float = 0.5, data_root: str | Path | None = None,
                      overwrite: bool = False, options: Sequence[str] | Mapping[str, Any] = ()) -> Path:
    """Audit the annotations of a subset and write the report; one that is current is left.

    Args:
        options: changes of the config.
        Others: as the options of the command line.

    Returns:
        The report's json.

    Raises:
        UserError: wrong or missing input; stores and a class head that do not belong together.
    """
    start = time.perf_counter()
    _check_numbers(k, text_weight, show, per_image)
    from tqdm import tqdm

    from ovd.data.annotations import load_annotations
    from ovd.engine.config import load_config
    from ovd.engine.marks import marked, warn
    from ovd.evaluation.audit import Settings, audit
    from ovd.evaluation.audit_pictures import Pictures
    from ovd.fewshot.annotated import AnnotatedObjects
    from ovd.stores.manifest import current_or_remove, fingerprint
    from ovd.stores.region_index import RegionIndex, index_file
    from pipelines.region_settings import variable

    cfg = load_config(config, options, data_root)
    root = Path(cfg.get("data_root") or "")
    ann_file = root / variable(cfg, f"{subset}_ann")
    folder = Path(out) if out else Path("work_dirs", f"audit_{Path(config).stem}_{subset}")
    regions = _open(Path(store) if store else root / f"regions/annotated_{subset}", config, subset)
    index_path = Path(index) if index else index_file(regions.path)
    if not index and not index_path.exists():
        index_path = None
    annotations = load_annotations(ann_file)
    names = _classes(cfg, root, annotations)
    head_path, text = (None, None) if no_text else _text_classes(cfg, root, class_head, names, regions)
    candidates = _proposals(proposals, regions) if proposals else None

    record = {
        "config": {"subset": subset, "classes": list(names), "k": k, "text_weight": None if no_text else text_weight,
                   "show": show, "per_image": per_image if proposals else None},
        "inputs": {"annotations": fingerprint(ann_file), "regions": fingerprint(regions.path),
                   **({"index": fingerprint(index_path)} if index_path else {}),
                   **({"class_head": fingerprint(head_path)} if head_path else {}),
                   **({"proposals": fingerprint(candidates.path)} if candidates else {})},
    }
    report = folder / "report.json"
    if current_or_remove(report, STAGE, **record, overwrite=overwrite) and (folder / "report.html").exists():
        print(f"{report} is up to date")
        return report
    objects = AnnotatedObjects.join(regions, annotations, ann_file, names)
    searched = RegionIndex.load(index_path, regions) if index_path else RegionIndex.scan(regions)
    if index_path is None and len(objects) > LARGE:
        print(f"note: {len(objects):,} objects are searched without an index; one made by ovd build-index is faster")
    sources = marked([regions.path, *([head_path] if head_path else [])])
    warn(sources, "The report serves")
    pictures = Pictures.of(annotations.images, root / variable(cfg, f"{subset}_prefix"))
    settings = Settings(k=k, text_weight=text_weight)
    with tqdm(total=len(objects), desc="neighbours", unit=" objects") as bar:
        findings = audit(objects, searched, pictures, text, settings, bar.update)
    if candidates:
        findings = _with_missing(findings, searched, candidates, annotations, text, per_image)
    rows = _shown(record, ann_file, regions, index_path, head_path, candidates)
    _write(folder, findings, pictures, show, record, rows, {"untrained": True} if sources else {}, start)
    _summary(findings, folder, time.perf_counter() - start)
    return report


def _check_numbers(k: int, text_weight: float, show: int, per_image: int) -> None:
    for name, value, least in (("--k", k, 1), ("--show", show, 0), ("--per-image", per_image, 1)):
        if value < least:
            raise UserError(f"{name} {value}: needs {least} or more")
    if not 0 <= text_weight <= 1:
        raise UserError(f"--text-weight {text_weight}: needs a number from 0 to 1")


def _open(path: Path, config: str | Path, subset: str) -> "RegionStore":
    from ovd.stores.shards import RegionStore

    if not path.exists():
        raise UserError(f"{path}: no region store of the annotated boxes; make it with ovd proposals {config} "
                        f"--from-annotations --subset {subset} --out BOXES, then ovd embed-regions {config} --subset "
                        f"{subset} --proposals BOXES --out {path}")
    return RegionStore(path)


def _classes(cfg: "Config", root: Path, annotations: "Annotations") -> tuple[str, ...]:
    from ovd.vocabulary.splits import get_split

    if isinstance(cfg.get("split"), str):
        return get_split(cfg.split, root).classes
    return tuple(category.name for category in annotations.categories)


def _text_classes(cfg: "Config", root: Path, file: str | Path | None, names: Sequence[str],
                  regions: "RegionStore") -> tuple[Path, "TextClasses"]:
    import torch

    from ovd.engine.preflight import check_pair
    from ovd.stores.class_registry import load_classes

    if file is None and not isinstance(cfg.get("class_head"), str):
        raise UserError(f"{cfg.filename}: class_head is not set; set it, pass --class-head, or judge by the neighbours "
                        "alone with --no-text")
    path = Path(file) if file else root / cfg.class_head
    head = load_classes(path)
    check_pair(path, head, regions.path, regions)
    try:
        head = head.select(names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error

    def probabilities(rows_BD: "np.ndarray") -> "np.ndarray":
        chances_BC = head.probabilities(torch.from_numpy(rows_BD)).double()
        return (chances_BC / chances_BC.sum(dim=1, keepdim=True)).numpy()  # sigmoids do not sum to 1

    return path, probabilities


def _proposals(path: str | Path, regions: "RegionStore") -> "RegionStore":
    from ovd.stores.shards import RegionStore

    found = RegionStore(path)
    if found.kind != "regions":
        raise UserError(f"{path}: a store of {found.kind} has no embeddings; make one with ovd embed-regions")
    ours, theirs = ((store.dim, store.manifest.inputs.get("clip"), store.manifest.config.get("recipe"))
                    for store in (regions, found))
    if ours != theirs:
        raise UserError(f"{path} and {regions.path} were made with different CLIPs or crop recipes, so that their "
                        "embeddings cannot be compared; make both with the same config")
    return found


def _with_missing(findings: "Findings", index: "RegionIndex", proposals: "RegionStore", annotations: "Annotations",
                  text: "TextClasses | None", per_image: int) -> "Findings":
    from dataclasses import replace

    from tqdm import tqdm

    from ovd.data.boxes import corners
    from ovd.evaluation.audit_missing import MissingFinder

    annotated: dict[int, np.ndarray] = {image_id: corners([a.bbox for a in found])
                                        for image_id, found in annotations.by_image().items()}
    finder = MissingFinder(findings.objects, index, findings.likeness(), text, findings.settings.text_weight,
                           findings.settings.k)
    with tqdm(total=len(proposals), desc="proposals", unit=" images") as bar:
        return replace(findings, missing=finder.find(proposals, annotated, per_image, progress=bar.update))


def _shown(record: dict, ann_file: Path, regions: "RegionStore", index: Path | None, head: Path | None,
           proposals: "RegionStore | None") -> list[tuple[str, str]]:
    config, inputs = record["config"], record["inputs"]
    files = {"annotations": ann_file, "regions": regions.path, "index": index, "class_head": head,
             "proposals": proposals.path if proposals else None}
    rows = [(name.replace("_", " "), f"{path} ({inputs[name][:19]})") for name, path in files.items() if path]
    rows.append(("neighbours that vote", str(config["k"])))
    if config["text_weight"] is not None:
        rows.append(("weight of CLIP's text classes", f"{config['text_weight']:g}"))
    return rows


def _write(folder: Path, findings: "Findings", pictures: Any, show: int, record: dict,
           settings: list[tuple[str, str]], flags: dict, start: float) -> None:
    from ovd.evaluation.audit_page import AuditPage
    from ovd.evaluation.audit_report import as_json, counts
    from ovd.stores.atomic import write_bytes
    from ovd.stores.manifest import Manifest, publish

    files = pictures.names
    numbers = counts(findings)
    introduction = f"{numbers['objects']:,} objects in {numbers['images']:,} images, as their embeddings see them."
    if flags:
        introduction += " The CLIP is untrained, so that nothing here means anything."
    page = AuditPage(findings, pictures, files, show).render("Audit of annotations", introduction, settings)
    write_bytes(folder / "report.html", page.encode())
    manifest = Manifest("audit", STAGE, **record, counts=numbers, flags=flags,
                        wall_seconds=round(time.perf_counter() - start, 1))
    with publish(folder / "report.json", manifest) as (temporary, _):
        temporary.write_text(json.dumps(as_json(findings, files), indent=1) + "\n", encoding="utf-8")


def _summary(findings: "Findings", folder: Path, seconds: float) -> None:
    from ovd.evaluation.audit_report import counts

    numbers, names = counts(findings), findings.objects.names
    print(f"{numbers['objects']:,} objects in {numbers['images']:,} images, {seconds:.0f} s")
    print(f"labels counted as wrong: {numbers['labels_counted_as_wrong']:,} ({numbers['suspicious_labels']:,} are "
          "suspicious)")
    for label, other, count in findings.confusions()[:5]:
        print(f"  {count:>5} {names[label]}, probably {names[other]}")
    print(f"groups of duplicate images: {numbers['groups_of_duplicate_images']:,}, of duplicate objects: "
          f"{numbers['groups_of_duplicate_objects']:,}")
    print(f"boxes drawn twice: {numbers['boxes_drawn_twice']:,}, labelled as two classes: "
          f"{numbers['boxes_of_two_classes']:,}")
    if numbers["unannotated"] is not None:
        print(f"objects perhaps without annotation: {numbers['unannotated']:,}")
    for key, words in (("labels_not_judged", "labels of rare classes could not be judged"),
                       ("objects_without_embedding", "annotations have no embedding and were not looked at"),
                       ("pairs_of_objects_not_compared", "pairs of similar objects were not compared by pixels")):
        if numbers[key]:
            print(f"note: {numbers[key]:,} {words}")
    print(f"report: {folder / 'report.html'}, all of it in {folder / 'report.json'}")
