"""Many vocabularies evaluated in one pass: the detector looks once, and each class head names what it saw."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from mmdet.registry import METRICS
from mmengine.config import Config
from torch import Tensor, nn
from tqdm import tqdm

from ovd.engine.runner import DetectionRunner
from ovd.errors import UserError
from ovd.evaluation.average_precision import PROTOCOLS
from ovd.evaluation.metric import OpenVocabMetric
from ovd.stores.class_heads import ClassHead

EVIDENCE_BYTES = 1 << 30  # of images that wait until every class head has named them
RESULT_BYTES = 4 << 30  # of the detections of all class heads of a pass
DETECTION_BYTES = 32


def evaluate_heads(model: nn.Module, cfg: Config, heads: Mapping[Hashable, ClassHead],
                   images: int | None = None) -> dict[Hashable, dict[str, float]]:
    """Box metrics of a detector with each of several class heads.

    Args:
        model: In eval mode, with ``evidence``, ``detect`` and ``set_class_head``; it keeps the last head.
        cfg: Has the evaluation images and the evaluator.
        heads: By any key; each has all classes of the evaluator's split.
        images: Look at the first so many only.

    Returns:
        For each key the figures of :class:`~ovd.evaluation.metric.OpenVocabMetric`.

    Raises:
        UserError: A detector that sees nothing without its vocabulary; a head without a class of the split.
    """
    for needed in ("evidence", "detect", "set_class_head"):
        if not hasattr(model, needed):
            raise UserError(f"{cfg.filename}: {type(model).__name__} cannot try several vocabularies on one image: "
                            "give a ViLD or a FCOS detector of this project")
    loader = DetectionRunner.build_dataloader({**cfg.test_dataloader}, seed=0)
    metric = _metric(cfg)
    heads = {key: head.select(metric.split.classes) for key, head in heads.items()}
    total = len(loader.dataset) if images is None else min(images, len(loader.dataset))
    per_pass = heads_at_once(total, metric.max_dets or PROTOCOLS[metric.protocol])
    keys, found = list(heads), {}
    for start in range(0, len(keys), per_pass):
        here = {key: heads[key] for key in keys[start:start + per_pass]}
        metrics = {key: _metric(cfg, metric.truth) for key in here}
        _one_pass(model, loader, here, metrics, total)
        for key, one in metrics.items():
            found[key] = one.evaluate(total)
            metric.truth = one.truth
    return found


def heads_at_once(images: int, detections: int) -> int:
    """How many heads' detections of all images (base and added classes each with a budget) have room in memory."""
    return max(1, RESULT_BYTES // max(1, 2 * images * detections * DETECTION_BYTES))


@torch.inference_mode()
def _one_pass(model: nn.Module, loader: Iterable, heads: Mapping[Hashable, ClassHead],
              metrics: Mapping[Hashable, OpenVocabMetric], total: int) -> None:
    seen: list[tuple[Any, Sequence]] = []
    size = done = 0

    def name_all() -> None:
        for key, head in heads.items():
            model.set_class_head(head)
            for evidence, samples in seen:
                results = model.detect(evidence, samples)
                metrics[key].process(None, [{"img_id": sample.img_id, "pred_instances": result}
                                            for sample, result in zip(samples, results, strict=True)])
        seen.clear()

    with tqdm(total=total, desc=f"images, {len(heads)} vocabularies", unit=" images", dynamic_ncols=True) as bar:
        for batch in loader:
            if done == total:
                break
            batch = {key: value[:total - done] for key, value in batch.items()}
            data = model.data_preprocessor(batch, False)
            evidence = model.evidence(data["inputs"], data["data_samples"])
            seen.append((evidence, data["data_samples"]))
            size += tensor_bytes(evidence)
            done += len(data["data_samples"])
            if size >= EVIDENCE_BYTES or done == total:
                name_all()
                size = 0
            bar.update(len(data["data_samples"]))


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in containers and dataclasses."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _metric(cfg: Config, truth: Any = None) -> OpenVocabMetric:
    if not cfg.get("test_evaluator") or not cfg.get("test_dataloader"):
        raise UserError(f"{cfg.filename}: nothing to evaluate: the config has no test_dataloader and test_evaluator")
    metric = METRICS.build({**cfg.test_evaluator, "metric": ("bbox",)})
    metric.truth = truth
    return metric
