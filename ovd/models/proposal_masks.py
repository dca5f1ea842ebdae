"""Masks for given boxes from the class-agnostic mask head of a trained detector."""

import os
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import InstanceData

from ovd.engine.checkpoints import load_exactly, read_checkpoint
from ovd.engine.config import walk
from ovd.errors import UserError


class ProposalMasks:
    """A detector that is asked for nothing but masks.

    Args:
        cfg: Config of the detector; its test pipeline prepares the images.
        checkpoint: Its weights.

    Raises:
        UserError: A detector without a mask head, weights that do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | os.PathLike, device: torch.device) -> None:
        for _, part in walk(cfg.model):
            if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
                part["init_cfg"] = None
        if not (cfg.model.get("roi_head") or {}).get("mask_head"):
            raise UserError(f"{cfg.filename}: has no mask head, so it makes no masks")
        weights = read_checkpoint(checkpoint)["state_dict"]
        self.model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).eval()
        load_exactly(self.model, weights, Path(checkpoint))
        self.pipeline = Compose(cfg.test_dataloader.dataset.pipeline)

    @torch.inference_mode()
    def add(self, found: InstanceData, record: dict) -> None:
        """Give ``found`` (``bboxes`` in original pixels, ``roi_index``) its ``masks``, bool ``[N, H, W]``.

        Args:
            record: Of the image, as :class:`~ovd.data.dataset.OpenVocabDataset` has it.
        """
        # a copy: the pipeline puts pixels into what it is given, and marks objects; no mask depends on objects
        data = self.model.data_preprocessor(pseudo_collate([self.pipeline({**record, "instances": []})]), False)
        sample = data["data_samples"][0]
        rows, index = found.roi_index.unique(return_inverse=True)  # detections of one region share its mask
        boxes = found.bboxes.new_empty(len(rows), 4)
        boxes[index] = found.bboxes
        scale = boxes.new_tensor(sample.scale_factor).repeat(2)
        distinct = InstanceData(bboxes=boxes * scale, labels=torch.zeros_like(rows))
        levels = tuple(level.float() for level in self.model.extract_feat(data["inputs"]))
        head = self.model.roi_head
        found.masks = head.predict_mask(levels, [sample.metainfo], [distinct], rescale=True)[0].masks[index]
