"""What finds boxes, of whatever class, in images: a seam, behind which this project's networks and public ones stand.

Shapes: n boxes of an image of H x W pixels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.data.images import Photo
from ovd.data.in_memory import prepared_image
from ovd.engine.checkpoints import read_checkpoint
from ovd.engine.config import load_config, resolve_types
from ovd.engine.conversion.usage import check_usage
from ovd.models.proposal_network import Prepared, ProposalNetwork


@dataclass(frozen=True)
class Proposed:
    """Boxes of an image, the most object-like first.

    Attributes:
        boxes_n4: xyxy in pixels of the image, inside it, none without an area.
        objectness_n: 0 to 1.
        masks_nhw: Where in its box an object is, probabilities; None where none were asked for, or none can be had.
    """

    boxes_n4: Tensor
    objectness_n: Tensor
    masks_nhw: Tensor | None = None


class Proposer(nn.Module):
    """Finds boxes. Its weights are frozen, so copies of a model share one."""

    makes_masks = False

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def __deepcopy__(self, memo: dict) -> "Proposer":
        return self

    def train(self, mode: bool = True) -> "Proposer":
        """It is not trained here, so it stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Sequence[Tensor], masks: bool = False) -> list[Proposed]:
        """Boxes of uint8 RGB images ``[3, H, W]``, each by itself.

        Args:
            masks: Masks too, of a proposer that makes them.
        """
        raise NotImplementedError


@MODELS.register_module()
class NetworkProposer(Proposer):
    """The proposal network of one of this project's configs, trained: an RPN, or a two-stage detector's.

    Args:
        config: Of that network, whose test pipeline prepares the images.
        checkpoint: Its weights.
        max_per_image: Boxes kept.

    Raises:
        UserError: A config without a proposal network, weights that do not fit.
    """

    def __init__(self, config: str | os.PathLike, checkpoint: str | os.PathLike, max_per_image: int = 50) -> None:
        super().__init__()
        cfg = load_config(config)
        resolve_types(cfg)
        contents = read_checkpoint(checkpoint)
        check_usage(checkpoint, contents, cfg.model)
        self._network = ProposalNetwork(cfg, contents, checkpoint, max_per_image)
        self.rpn = self._network.rpn.requires_grad_(False)
        self._pipeline = Compose(self._network.pipeline.transforms[1:])  # less what loads a file

    def forward(self, images: Sequence[Tensor], masks: bool = False) -> list[Proposed]:
        found = []
        for image in images:
            ((boxes_n4, scores_n),) = self._network.propose([self._prepared(image)])
            found.append(Proposed(*(torch.from_numpy(part).to(image.device) for part in (boxes_n4, scores_n))))
        return found

    def _prepared(self, image: Tensor) -> Prepared:
        height, width = image.shape[-2:]
        bgr = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
        packed = prepared_image(self._pipeline, bgr)
        return Prepared(Photo(0, "", height, width), packed["inputs"], packed["data_samples"])
