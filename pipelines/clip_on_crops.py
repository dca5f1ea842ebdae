"""CLIP on cropped proposals: detection without training, a baseline for every open-vocabulary detector.

Boxes are the proposals, scores are CLIP's class probabilities of their crops (softmax of cos / T over all classes);
with --objectness the geometric mean of that and the proposal's score. The embeddings come from the region store of
the evaluation images:

    ovd embed-regions CONFIG --subset val
    ovd clip-on-crops CONFIG [--objectness]

Prints and writes what `ovd test` does. See docs/clip_on_crops.md.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.structures import InstanceData
    from torch import Tensor

    from ovd.evaluation.metric import OpenVocabMetric
    from ovd.stores.class_heads import ClassHead
    from ovd.stores.shards import RegionStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/clip_on_crops.py``."""
    parser.add_argument("config", help="the config file")
    parser.add_argument("--objectness", action="store_true", help="scores are sqrt(class probability x objectness)")
    parser.add_argument("--regions", metavar="DIR", help="the region store of the evaluation images (default: the "
                        "config's region_store_val, else regions/val in data_root)")
    parser.add_argument("--fresh", action="store_true", help="embed the proposals now, and keep no store")
    parser.add_argument("--class-head", metavar="FILE", help="detect the classes of the split with this class head")
    parser.add_argument("--temperature", type=float, metavar="T", help="of the softmax (default: the class head's, "
                        "which is its CLIP's: 0.01 for OpenAI's)")
    parser.add_argument("--score-thr", type=float, default=1e-4, metavar="S", help="lowest score (%(default)s)")
    parser.add_argument("--nms-iou", type=float, default=0.5, metavar="IOU", help="boxes of a class that overlap a "
                        "better one more than this are suppressed (%(default)s)")
    parser.add_argument("--eval", nargs="+", metavar="KIND", help="bbox and / or segm (default: bbox, and segm with "
                        "--masks-from)")
    parser.add_argument("--masks-from", nargs=2, metavar=("CONFIG", "CHECKPOINT"),
                        help="a trained detector whose class-agnostic mask head gives the masks")
    parser.add_argument("--diagnostics", action="store_true", help="also AP50 with one label a box, and accuracy at "
                        "ground-truth boxes, which are embedded now (default: if the config's model has them)")
    parser.add_argument("--out", metavar="FILE", help="write the detections: .json (COCO results) or .pkl (per image)")
    parser.add_argument("--show-dir", metavar="DIR", help="write pictures of detections beside the ground truth")
    parser.add_argument("--show-limit", type=int, default=50, metavar="N", help="how many pictures (%(default)s)")
    parser.add_argument("--show-score", type=float, default=0.3, metavar="S", help="lowest score drawn (%(default)s)")
    parser.add_argument("--work-dir", help="where metrics.json goes (default: work_dirs/<config>_clip_on_crops, with "
                        "_objectness at its end for that)")
    parser.add_argument("--data-root", help="use the dataset in this folder instead of the config's data_root")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="where to compute (default: a GPU where there is one)")
    parser.add_argument("--allow-untrained", action="store_true", help="permit a CLIP of random weights with --fresh")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change values of the config")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/clip_on_crops.py`` and ``ovd clip-on-crops``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "cfg_options", "eval")}
    clip_on_crops(args.config, options=args.cfg_options, kinds=args.eval, **options)
    return 0


def clip_on_crops(config: str | Path, *, objectness: bool = False, regions: str | Path | None = None,
                  fresh: bool = False, class_head: str | Path | None = None, temperature: float | None = None,
                  score_thr: float = 1e-4, nms_iou: float = 0.5, kinds: Sequence[str] | None = None,
                  masks_from: tuple[str, str] | None = None, diagnostics: bool = False, out: str | Path | None = None,
                  show_dir: str | Path | None = None, show_limit: int = 50, show_score: float = 0.3,
                  work_dir: str | Path | None = None, data_root: str | Path | None = None, device: str = "auto",
                  allow_untrained: bool = False, options: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, float]:
    """Evaluate CLIP on the proposals of the evaluation images of ``config``.

    Args:
        kinds: what to evaluate of ``bbox`` and ``segm``.
        masks_from: config and checkpoint of a detector with a mask head.
        options: changes of the config.
        Others: as the options of the command line.

    Returns:
        ``{"base/ap50": per cent, ...}``, the figures that are also in ``<work_dir>/metrics.json``.

    Raises:
        UserError: wrong input; a class head and a region store of different CLIPs.
    """
    from mmdet.registry import DATASETS
    from tqdm import tqdm

    import ovd.models  # noqa: F401 (first: it stands in for mmcv's compiled operators)
    from ovd.engine.config import load_config
    from ovd.engine.launch import choose_device, quiet
    from ovd.engine.marks import FLAG, marked, warn
    from ovd.engine.preflight import check_pair
    from ovd.evaluation.average_precision import PROTOCOLS
    from ovd.evaluation.results import save_detections, save_metrics
    from ovd.evaluation.table import ap_table
    from ovd.models.crop_detector import CropDetector

    quiet()
    start = time.perf_counter()
    if out is not None and Path(out).suffix not in (".json", ".pkl"):
        raise UserError(f"--out {out}: write a .json or a .pkl file")
    if fresh and regions is not None:
        raise UserError("--fresh embeds the proposals now, --regions names a store: give one of them")
    torch_device = choose_device(device)
    cfg = load_config(config, options, data_root, work_dir)
    folder = Path(work_dir or f"{cfg.work_dir}_clip_on_crops{'_objectness' * objectness}")
    metric = _metric(cfg, kinds, masks_from is not None)
    head_file, head = _class_head(cfg, class_head, metric.split.classes)
    detector = CropDetector(head, objectness, temperature, score_thr, nms_iou,
                            metric.max_dets or PROTOCOLS[metric.protocol], torch_device)
    images = DATASETS.build(cfg.test_dataloader.dataset)
    masks = None
    if masks_from is not None:
        from ovd.models.proposal_masks import ProposalMasks

        masks = ProposalMasks(load_config(masks_from[0], data_root=data_root), masks_from[1], torch_device)
    diagnostics = diagnostics or _diagnoses(cfg)
    source = (_embedded_now(config, options, data_root, device, allow_untrained) if fresh
              else _cached(cfg, regions, f"ovd embed-regions {config} --subset val"))
    with source as store:
        if store.kind != "regions":
            raise UserError(f"{store.path}: a store of {store.kind} has no embeddings; make one with ovd embed-regions")
        check_pair(head_file, head, store.path, store)
        records = [images.get_data_info(index) for index in range(len(images))]
        store.require_images(record["img_id"] for record in records)
        sources = marked([head_file, store.path, *([masks_from[1]] if masks_from else [])])
        warn(sources, "The figures serve")
        at_truth = _labels_at_truth(cfg, records, store, head, torch_device) if diagnostics else None
        for index, record in enumerate(tqdm(records, desc="scoring", unit=" images")):
            found = detector.detect(store.view(record["img_id"]), with_one_label=diagnostics)
            if masks is not None:
                masks.add(found["pred_instances"], record)
            truth = _truth(record)
            extra = {"gt_instances": truth, "gt_pred_labels": at_truth[index]} if diagnostics else {}
            metric.process(None, [{"img_id": record["img_id"], **found, **extra}])
            if show_dir is not None and index < show_limit:
                _draw(Path(show_dir), record, metric.split.classes, found["pred_instances"], truth, show_score)
    metrics = metric.evaluate(len(records))
    if out is not None:
        save_detections(out, metric.detections, metric.truth)
    path = save_metrics(folder, metrics, {FLAG: True} if sources else {})
    print(ap_table(metrics))
    print(f"{len(records)} images in {time.perf_counter() - start:.0f} s: {path}")
    return metrics


def _metric(cfg: "Config", kinds: Sequence[str] | None, with_masks: bool) -> "OpenVocabMetric":
    from mmdet.registry import METRICS

    from ovd.evaluation.average_precision import check_kinds

    for section in ("test_dataloader", "test_evaluator"):
        if not cfg.get(section):
            raise UserError(f"{cfg.filename}: nothing to evaluate: the config has no {section}")
    check_kinds(kinds or ())
    if "segm" in (kinds or ()) and not with_masks:
        raise UserError("--eval segm: CLIP makes no masks; name a detector that does with --masks-from CONFIG "
                        "CHECKPOINT, or use --eval bbox")
    default = ("bbox", "segm") if with_masks else ("bbox",)
    return METRICS.build({**cfg.test_evaluator, "metric": tuple(kinds or default)})


def _class_head(cfg: "Config", file: str | Path | None, classes: Sequence[str]) -> tuple[Path, "ClassHead"]:
    from ovd.stores.class_registry import load_classes

    if file is None and not isinstance(cfg.get("class_head"), str):
        raise UserError(f"{cfg.filename}: class_head is not set; set it, or pass --class-head")
    path = Path(file) if file else Path(cfg.get("data_root") or "", cfg.class_head)
    head = load_classes(path)
    try:
        return path, head.select(classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@contextmanager
def _cached(cfg: "Config", regions: str | Path | None, remedy: str) -> Iterator["RegionStore"]:
    from ovd.stores.shards import RegionStore
    from pipelines.region_settings import store_of

    path = Path(regions) if regions else store_of(cfg, "val")
    if not path.exists():
        raise UserError(f"{path}: no region store of the evaluation images; make it with {remedy}, or pass --fresh")
    yield RegionStore(path)


@contextmanager
def _embedded_now(config: str | Path, options: Any, data_root: str | Path | None, device: str,
                  allow_untrained: bool) -> Iterator["RegionStore"]:
    from ovd.stores.shards import RegionStore
    from pipelines.region_embeddings import embed_regions

    with tempfile.TemporaryDirectory(prefix="regions-") as folder:
        yield RegionStore(embed_regions(config, options=options, data_root=data_root, subset="val",
                                        out=Path(folder, "val"), device=device, allow_untrained=allow_untrained))


def _diagnoses(cfg: "Config") -> bool:
    test_cfg = (cfg.get("model") or {}).get("test_cfg") or {}
    return bool((test_cfg.get("rcnn") or {}).get("diagnostics", False))


def _truth(record: dict) -> "InstanceData":
    """Boxes ``[G, 4]`` in original pixels and labels of an image's objects, crowds left out."""
    import torch
    from mmengine.structures import InstanceData

    objects = [instance for instance in record["instances"] if not instance["ignore_flag"]]
    return InstanceData(bboxes=torch.tensor([instance["bbox"] for instance in objects]).reshape(-1, 4),
                        labels=torch.tensor([instance["bbox_label"] for instance in objects], dtype=torch.long))


def _labels_at_truth(cfg: "Config", records: list[dict], store: "RegionStore", head: "ClassHead",
                     device: Any) -> list["Tensor"]:
    """CLIP's best class, long ``[G]``, at the ground-truth boxes of each image, cropped as the store's regions were."""
    import torch
    from tqdm import tqdm

    from ovd.clip.levels import Objects
    from ovd.clip.towers import load_clip
    from ovd.data.rgb import load_rgb
    from pipelines.region_settings import Settings

    settings = Settings.read(cfg.get("regions", {}), str(cfg.filename))
    clip = load_clip(settings.pretrained, model=settings.model, device=device,
                     precision=settings.precision_on(device),
                     allow_untrained=bool(store.manifest.flags.get("untrained")))
    level = Objects(store, settings.recipe, None, settings.masked_attention, settings.upsample)
    ours, theirs = ({key: config[key] for key in ("recipe", "masked_attention", "upsample") if key in config}
                    for config in (level.config(), store.manifest.config))
    if (clip.fingerprint, ours) != (store.manifest.inputs.get("clip"), theirs):
        raise UserError(f"{store.path}: was made with another CLIP or crop recipe than regions of {cfg.filename}, so "
                        "ground-truth boxes would be seen differently; change that, or do without diagnostics "
                        "(--cfg-options model.test_cfg.rcnn.diagnostics=False)")
    encoder = level.encoder(clip, None)

    def crops() -> Iterator["Tensor"]:
        for record in tqdm(records, desc="ground-truth crops", unit=" images"):
            image = load_rgb(record["img_path"], record["width"], record["height"])
            yield encoder.cropper(image, _truth(record).bboxes.numpy())

    rows_by_image = encoder.encode(crops())
    return [head.logits(torch.from_numpy(rows_GD).float()).argmax(dim=1) for rows_GD in rows_by_image]


def _draw(folder: Path, record: dict, names: Sequence[str], found: "InstanceData", truth: "InstanceData",
          min_score: float) -> None:
    import numpy as np
    from PIL import Image

    from ovd.data.rgb import load_rgb
    from ovd.evaluation.pictures import detections_beside_truth

    folder.mkdir(parents=True, exist_ok=True)
    path = Path(record["img_path"])
    shown = detections_beside_truth(np.asarray(load_rgb(path)), names, found, truth, min_score)
    Image.fromarray(shown).save(folder / f"{path.stem}.jpg", quality=92)
