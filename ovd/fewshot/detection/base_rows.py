"""What regions of training images look like to a detector: base classes, and background.

Added classes are calibrated on them: nothing here knows of a class that was not annotated in training.
Shapes: N regions, D embedding width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mmdet.registry import DATASETS
from mmdet.structures import SampleList
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn
from torchvision.ops import box_iou
from tqdm import tqdm

from ovd.data.dataset import OpenVocabDataset
from ovd.errors import UserError
from ovd.fewshot.calibration import BaseRegions
from ovd.models.region_detection import RegionEvidence

OBJECT, BACKGROUND = 0.5, 0.3  # overlap with an annotated object from which, and below which, a region is taken as such


@torch.inference_mode()
def base_regions(model: nn.Module, cfg: Config, images: int, temperature: float, seed: int = 0,
                 batch_size: int = 8) -> tuple[BaseRegions, frozenset[int]]:
    """Pass training images, prepared as test images are, through a detector with embeddings of regions.

    Args:
        model: In eval mode, with ``evidence``.
        cfg: Its training dataset is annotated with base classes only, as training itself checks.
        images: How many, drawn by ``seed``.
        temperature: Of the detector's softmax at test.

    Returns:
        The regions that clearly are an object, or clearly none, as the detector proposes them; and the ids of their
        images, from which no base class may take its boxes then.

    Raises:
        UserError: A config without a training dataset; no region of a base class.
    """
    dataset = _dataset(cfg)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:images].tolist()
    rows, labels, ids = [], [], set()
    with tqdm(total=len(chosen), desc="base regions", unit=" images", leave=False) as bar:
        for start in range(0, len(chosen), batch_size):
            batch = pseudo_collate([dataset[index] for index in chosen[start:start + batch_size]])
            data = model.data_preprocessor(batch, False)
            evidence = model.evidence(data["inputs"], data["data_samples"])
            ids.update(sample.img_id for sample in data["data_samples"])
            for image_rows, image_labels in _labelled(evidence, data["data_samples"]):
                rows.append(image_rows.cpu())
                labels.append(image_labels.cpu())
            bar.update(len(data["data_samples"]))
    names = dataset.split.base
    return BaseRegions(torch.cat(rows), torch.cat(labels), names, temperature, seed), frozenset(ids)


def _labelled(evidence: RegionEvidence, samples: SampleList) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and labels of each image's regions that clearly are an object, or clearly none."""
    found = evidence.found
    rows_ND = F.normalize(sum(embeddings for stage in found.stages for embeddings in stage), dim=-1)
    for rois, rows, sample in zip(found.rois_N5.split(evidence.sizes), rows_ND.split(evidence.sizes), samples):
        truth = sample.gt_instances
        if not len(truth):
            labels, sure = rois.new_full((len(rois),), -1, dtype=torch.long), rois.new_ones(len(rois), dtype=torch.bool)
        else:
            scale = rois.new_tensor(sample.scale_factor).repeat(2)
            overlap_N, nearest_N = box_iou(rois[:, 1:], truth.bboxes.to(rois) * scale).max(dim=1)
            labels = torch.where(overlap_N >= OBJECT, truth.labels.to(rois.device)[nearest_N], -1)
            sure = (overlap_N >= OBJECT) | (overlap_N < BACKGROUND)
        yield rows[sure], labels[sure]


def _dataset(cfg: Config) -> OpenVocabDataset:
    train = (cfg.get("train_dataloader") or {}).get("dataset")
    while train is not None and "ann_file" not in train:
        train = train.get("dataset")  # repeat factor sampling, episodes and the like
    if train is None:
        raise UserError(f"{cfg.filename}: has no training dataset to calibrate added classes on: leave calibration out "
                        "with --calibration-images 0")
    keys = ("type", "ann_file", "split", "data_root", "data_prefix")
    return DATASETS.build({**{key: train[key] for key in keys if key in train}, "test_mode": True,
                           "pipeline": cfg.test_dataloader.dataset.pipeline})
