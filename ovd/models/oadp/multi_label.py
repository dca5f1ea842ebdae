"""Which of the base classes are in a region: a yes or no for each, from cosines to their embeddings.

Shapes: R regions, D embedding width, C base classes.
"""

from os import PathLike

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.stores.class_heads import ClassHead
from ovd.stores.scoring import class_logits
from ovd.vocabulary.splits import Split


@MODELS.register_module()
class MultiLabelClassifier(nn.Module):
    """``cos * scaler - bias`` for each base class, the logit of a sigmoid (OADP, sec. 3.3).

    Novel classes are left out, as no annotation says where they are. Used in training only, so the vocabulary is the
    one that the detector learns from. The class embeddings are not part of the state dict.

    Args:
        class_head, split, data_root: As for :class:`~ovd.models.classifier.CosineClassifier`.
        embed_dim: Not used where there is a class head, which knows its width.
        scaler, bias: Numbers; None takes them from a class head with a bias, such as one of OADP's multi-label prompts
            (``ovd.models.oadp.prompts``), and for other heads 100 and 25: CLIP's own scale, and about the cosine at
            which ViT-B/32's image and text belong together.
    """

    def __init__(self, class_head: str | PathLike | ClassHead | None = None,
                 split: str | PathLike | Split | None = None, data_root: str = "", embed_dim: int | None = None,
                 scaler: float | None = None, bias: float | None = None) -> None:
        super().__init__()
        known = CosineClassifier(class_head, split, data_root, embed_dim, background=False)
        if known.kinds_C is not None:
            raise UserError("multi-label distillation takes a cosine head of one form (single, mean_logit or max) with "
                            "one bias for all its classes: give the text head that the detector learns from")
        self.embed_dim, self.num_classes, self.reduce = known.embed_dim, known.num_base, known.reduce
        self.register_buffer("classes_CMD", known.classes_CMD[:known.num_base], persistent=False)
        self.register_buffer("counts_C", known.counts_C[:known.num_base], persistent=False)
        own = known.head is not None and known.head.bias is not None
        self.scaler = scaler if scaler is not None else known.head.scale if own else 100.0
        self.bias = bias if bias is not None else -float(known.head.bias[0]) if own else 25.0

    def forward(self, embeddings_RD: Tensor) -> Tensor:
        """Logits, float32 ``[R, C]``, of unit rows; also under autocast."""
        cosines = class_logits(embeddings_RD, self.classes_CMD, self.counts_C, norm="linear", reduce=self.reduce)
        return cosines * self.scaler - self.bias


def labels_of_blocks(blocks_R4: Tensor, boxes_G4: Tensor, labels_G: Tensor, num_classes: int) -> Tensor:
    """The classes of the annotated boxes that overlap a block, however little: bool ``[R, C]``.

    Args:
        boxes_G4, labels_G: Of one image, labels below ``num_classes``.
    """
    low = torch.maximum(blocks_R4[:, None, :2], boxes_G4[None, :, :2])
    high = torch.minimum(blocks_R4[:, None, 2:], boxes_G4[None, :, 2:])
    overlap_RG = (high > low).all(dim=2)
    labels_RC = torch.zeros(len(blocks_R4), num_classes, dtype=torch.long, device=blocks_R4.device)
    return labels_RC.index_add_(1, labels_G, overlap_RG.long()).bool()
