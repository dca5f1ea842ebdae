"""What a detector sees in support boxes: its own embeddings of them, or the features that a code generator reads.

Shapes: S shots, D embedding width, c channels.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import SampleList
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn
from tqdm import tqdm

from ovd.errors import UserError
from ovd.fewshot.shots import Shot, ShotSet
from ovd.fewshot.support_vectors import SupportVectors, support_of
from ovd.stores.class_heads import ClassHead

Reader = Callable[[Tensor, SampleList], Tensor]
"""From a batch of images and samples with ``gt_instances`` in input pixels to a row for each box."""


class SupportReader:
    """Passes the images of shots through a detector, each once, and keeps a row of each shot on the CPU.

    The images are prepared as the config's test images are.

    Args:
        model: The detector, in eval mode.
        read: Which of its methods reads boxes: ``model.embed_boxes`` or ``model.support_features``.
        cfg: Its config.
        image_root: The folder that the shots' images lie in.
        batch_size: Images at once.
    """

    def __init__(self, model: nn.Module, read: Reader, cfg: Config, image_root: str | Path,
                 batch_size: int = 8) -> None:
        self.model, self.read, self.image_root, self.batch_size = model, read, Path(image_root), batch_size
        self.pipeline = _pipeline(cfg)
        self.rows: dict[Shot, Tensor] = {}

    def __call__(self, shots: Iterable[Shot]) -> Tensor:
        """Rows ``[S, ...]`` of shots in their order; only those that were not read before cost anything.

        Raises:
            UserError: An image that cannot be read.
        """
        shots = list(shots)
        by_image: dict[str, list[Shot]] = {}
        for shot in dict.fromkeys(shots):
            if shot not in self.rows:
                by_image.setdefault(shot.image, []).append(shot)
        groups = list(by_image.values())
        with tqdm(total=len(groups), desc="support images", unit=" images", leave=False,
                  disable=len(groups) < 50) as bar:
            for start in range(0, len(groups), self.batch_size):
                self._read(groups[start:start + self.batch_size])
                bar.update(len(groups[start:start + self.batch_size]))
        return torch.stack([self.rows[shot] for shot in shots])

    @torch.inference_mode()
    def _read(self, groups: Sequence[Sequence[Shot]]) -> None:
        batch = pseudo_collate([self.pipeline(_record(shots, self.image_root)) for shots in groups])
        data = self.model.data_preprocessor(batch, False)
        rows = self.read(data["inputs"], data["data_samples"]).cpu()
        for shot, row in zip((shot for shots in groups for shot in shots), rows, strict=True):
            self.rows[shot] = row.clone()


def detector_vectors(model: nn.Module, cfg: Config, shots: ShotSet, image_root: str | Path, device: str = "cpu",
                     reader: SupportReader | None = None) -> SupportVectors:
    """The detector's own embeddings of shots, which it compares with its classes: one unit row a box.

    Args:
        model: A detector with ``embed_boxes``; moved to ``device`` unless there is a ``reader``.
        cfg: Its config, whose test pipeline prepares the images.
        reader: One of this model, which may have read some of the shots already.

    Raises:
        UserError: A detector that embeds no boxes; images or boxes that do not fit.
    """
    if not hasattr(model, "embed_boxes"):
        raise UserError(f"{cfg.filename}: {type(model).__name__} has no embeddings of regions: give a ViLD detector")
    shots.check(image_root)
    if reader is None:
        reader = SupportReader(model.to(device).eval(), model.embed_boxes, cfg, image_root)
    head = own_head(model)
    provenance = [{**support_of(shots, name), "embedded": "detector"} for name in shots.names]
    return SupportVectors(shots.names, reader(shots.shots()), class_of(shots), space_of(head), tuple(provenance),
                          *((100.0, None) if head is None else (head.scale, head.clip_bias or None)))


def class_of(shots: ShotSet) -> Tensor:
    """int64 ``[S]``: which class each of ``shots.shots()`` is of."""
    return torch.repeat_interleave(torch.tensor([len(each) for each in shots.classes.values()]))


def own_head(model: nn.Module) -> ClassHead | None:
    """The class head of a detector with embeddings, where it has one."""
    return model.roi_head.classifier.head


def space_of(head: ClassHead | None) -> dict[str, Any]:
    """What :attr:`ClassHead.stats` says of the space of a head."""
    keys = ("clip", "space", "scores", "clip_bias")
    return {} if head is None else {key: head.stats[key] for key in keys if key in head.stats}


def _pipeline(cfg: Config) -> Compose:
    """The test pipeline, with the boxes loaded before anything moves them."""
    try:
        first, *steps = cfg.test_dataloader.dataset.pipeline
    except (AttributeError, KeyError, ValueError):
        raise UserError(f"{cfg.filename}: has no test_dataloader.dataset.pipeline to prepare images with") from None

    def name(step: dict) -> str:
        return getattr(step["type"], "__name__", step["type"])

    steps = [dict(step) for step in steps if name(step) not in ("LoadAnnotations", "LoadRegions")]
    steps = [{**step, "type": "PackDetInputs"} if name(step) == "PackRegions" else step for step in steps]
    return Compose([first, {"type": "LoadAnnotations", "with_bbox": True}, *steps])


def _record(shots: Sequence[Shot], image_root: Path) -> dict[str, Any]:
    """A dataset's record of one image with its shots."""
    path = image_root / shots[0].image
    return {"img_id": shots[0].image_id, "img_path": str(path),
            "instances": [{"bbox": list(shot.box), "bbox_label": 0, "ignore_flag": 0} for shot in shots]}
