"""Masks for given boxes from the class-agnostic mask head of a trained detector."""

import os

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import InstanceData

from ovd.engine.inference import load_detector
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
        if not (cfg.model.get("roi_head") or {}).get("mask_head"):
            raise UserError(f"{cfg.filename}: has no mask head, so it makes no masks")
        self.model = load_detector(cfg, checkpoint, device)
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
