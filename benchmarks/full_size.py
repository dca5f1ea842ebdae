"""What the detector benchmarks share: the full-size detector, scenes that look like those of training, paired timing.

The weights are random, so three things are put where a trained detector would have them: proposals (crowded around
objects, the rest anywhere) in place of the proposal network's, which runs all the same; the embeddings that the box
head gives (:func:`likely_embeddings`); and ground truth that proposals match.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_iou

from ovd.models import CosineClassifier
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.splits import Split

MODELS_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "_base_" / "models"
WIDTH = 512  # of CLIP ViT-B/32's embeddings


def class_head(classes: int, seed: int = 0) -> ClassHead:
    """Random directions for so many names, with cosines of about 0.7 between them, as CLIP's of class names have."""
    generator = torch.Generator().manual_seed(seed)
    common, own = (F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1) for count in (1, classes))
    rows = 0.7 ** 0.5 * common + 0.3 ** 0.5 * own
    return ClassHead(tuple(f"class {i}" for i in range(classes)), rows[:, None])


def build_detector(mode: str, classes: int, device: torch.device, rois: int = 512) -> nn.Module:
    """ViLD on Mask R-CNN R50-FPN as configured, for so many classes (all base), with random weights.

    Args:
        rois: That are sampled of an image in training.
    """
    name = "vild_ensemble_mask_rcnn_r50_fpn" if mode == "ensemble" else "vild_mask_rcnn_r50_fpn"
    config = Config.fromfile(MODELS_FOLDER / f"{name}.py").model
    head = class_head(classes)
    config.mode = mode
    config.backbone.init_cfg = None
    config.train_cfg.rcnn.sampler.num = rois
    config.roi_head.bbox_head.classifier.update(class_head=head, split=Split("benchmark", "custom", base=head.names))
    torch.manual_seed(0)
    detector = MODELS.build(config)
    return revert_sync_batchnorm(detector).to(device)


def scene(size: tuple[int, int], seed: int, objects: int = 12, proposals: int = 1000,
          regions: int = 300) -> tuple[DetDataSample, Tensor]:
    """A data sample with ground truth (boxes of 5 to 50 % of the height) and cached regions, and proposals ``[n, 4]``.

    Three of five proposals lie around an object (each side off by some 15 % of its size), the others anywhere.

    Args:
        size: Height and width of the input in pixels; the original image had 480 rows.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    extent = rng.uniform(0.05, 0.5, (objects, 2)) * height
    corner = rng.uniform(0, 1, (objects, 2)) * np.maximum([width, height] - extent, 1)
    boxes = np.hstack([corner, np.minimum(corner + extent, [width - 1, height - 1])])
    near = boxes[rng.integers(objects, size=proposals * 3 // 5)]
    extents = near[:, 2:] - near[:, :2]
    near = near + np.hstack([extents, extents]) * rng.normal(0, 0.15, near.shape)
    anywhere = rng.uniform(0, 0.8, (proposals - len(near), 2)) * [width, height]
    anywhere = np.hstack([anywhere, anywhere + rng.uniform(0.03, 0.4, anywhere.shape) * height])
    found = np.vstack([near, anywhere])[rng.permutation(proposals)]
    found[:, 0::2] = found[:, 0::2].clip(0, width)
    found[:, 1::2] = found[:, 1::2].clip(0, height)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 4)
    scale = height / 480
    sample = DetDataSample(metainfo={
        "img_shape": size, "ori_shape": (480, round(width / scale)), "scale_factor": (scale, scale),
        "batch_input_shape": size, "pad_shape": size})
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in boxes]
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).float(), labels=torch.from_numpy(rng.integers(0, 40, objects)),
        masks=PolygonMasks(polygons, *size))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    cached = torch.tensor(found[:regions]).float()
    rows = F.normalize(torch.from_numpy(rng.normal(size=(len(cached), WIDTH))).float(), dim=-1).half()
    sample.regions = InstanceData(bboxes=cached, embeddings=rows)
    return sample, torch.tensor(found).float()


def settle_proposals(detector: nn.Module, proposals: list[Tensor]) -> None:
    """Give the proposal network these answers, ``[n, 4]`` an image, after it has done all its work."""
    network = detector.rpn_head
    predict, loss_and_predict = network.predict, network.loss_and_predict

    def answers() -> list[InstanceData]:
        return [InstanceData(bboxes=boxes.clone(), scores=torch.linspace(1, 0, len(boxes), device=boxes.device),
                             labels=torch.zeros(len(boxes), dtype=torch.long, device=boxes.device))
                for boxes in proposals]

    def predicted(*args, **kwargs):
        predict(*args, **kwargs)
        return answers()

    def trained(*args, **kwargs):
        losses, _ = loss_and_predict(*args, **kwargs)
        return losses, answers()

    network.predict, network.loss_and_predict = predicted, trained


def likely_embeddings(classifier: CosineClassifier, boxes_N4: Tensor, objects_G4: Tensor, labels_G: Tensor,
                      share: float) -> Tensor:
    """Unit embeddings of proposals, ``[N, D]``, as a trained box head gives them.

    Proposals that overlap an object by half or more have a cosine of 0.3 with its class. The others have that cosine
    with the background row which leaves ``share`` of the classes above the score threshold of 1e-4. What is left of the
    embeddings is noise that prefers no class.
    """
    rows = classifier.classes_CMD[:, 0].cpu()
    overlaps, nearest = box_iou(boxes_N4.cpu(), objects_G4.cpu()).max(dim=1)
    objects = overlaps >= 0.5
    background = F.normalize(classifier.background.detach().cpu(), dim=-1)
    target = torch.where(objects[:, None], rows[labels_G.cpu()[nearest]], background)
    noise = torch.randn(len(target), WIDTH, generator=torch.Generator().manual_seed(1))
    for axis in (F.normalize(rows.mean(dim=0), dim=-1).expand_as(noise), target):
        noise -= (noise * axis).sum(dim=1, keepdim=True) * axis
    noise = F.normalize(noise, dim=-1)

    def embeddings(cosine: float) -> Tensor:
        cosines = torch.where(objects, 0.3, cosine)[:, None]
        return (cosines * target + (1 - cosines ** 2).sqrt() * noise).to(classifier.classes_CMD.device)

    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        others = embeddings(middle)[~objects.to(classifier.classes_CMD.device)]
        found = (classifier.probabilities(classifier(others)) > 1e-4).float().mean()
        low, high = (middle, high) if found > share else (low, middle)
    return embeddings(high)


def settle_embeddings(detector: nn.Module, embeddings_ND: Tensor) -> None:
    """Give the box head these answers for the N proposals, after it has done all its work."""
    head = detector.roi_head.bbox_head
    embed = type(head).embed

    def embedded(trunk_features: Tensor) -> Tensor:
        embed(head, trunk_features)
        return embeddings_ND

    head.embed = embedded


def interleaved(functions: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each function; they take turns, and the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            _wait(device)
            start = time.perf_counter()
            function()
            _wait(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def devices(wanted: str) -> list[torch.device]:
    """``cpu``, ``cuda``, or with ``auto`` the CPU and, where there is one, the GPU."""
    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if wanted == "auto" else [wanted]
    return [torch.device(name) for name in names]
