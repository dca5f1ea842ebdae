"""OADP's heads for blocks and for whole images (Wang et al., CVPR 2023, sec. 3.3 and 3.4). They serve training only.

Shapes: R blocks, N images, D embedding width, C base classes.
"""

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ovd.models.losses import RegionDistillationLoss
from ovd.models.oadp.losses import AsymmetricLoss, ImageDistillationLoss, RelationDistillationLoss
from ovd.models.oadp.multi_label import MultiLabelClassifier

XAVIER = {"type": "Xavier", "layer": "Linear", "distribution": "uniform"}


@MODELS.register_module()
class BlockHead(BaseModule):
    """Two fully connected layers and a projection to CLIP's space; learns CLIP's embeddings of blocks, their cosines to
    one another, and the classes of the objects in them.

    Args:
        classifier: Config of a :class:`~ovd.models.oadp.multi_label.MultiLabelClassifier`.
        distillation: Config of a :class:`~ovd.models.losses.RegionDistillationLoss`. The default's weight 0.25 is 128
            on the mean over D = 512.
        relation: Config of a :class:`~ovd.models.oadp.losses.RelationDistillationLoss`.
        classification: Config of an :class:`~ovd.models.oadp.losses.AsymmetricLoss`.
    """

    def __init__(self, classifier: dict, in_channels: int = 256, roi_feat_size: int = 7, fc_out_channels: int = 1024,
                 distillation: dict | None = None, relation: dict | None = None, classification: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg or XAVIER)
        self.classifier = MODELS.build({"type": MultiLabelClassifier, **classifier})
        self.layers = nn.Sequential(
            nn.Linear(in_channels * roi_feat_size ** 2, fc_out_channels), nn.ReLU(inplace=True),
            nn.Linear(fc_out_channels, fc_out_channels), nn.ReLU(inplace=True),
            nn.Linear(fc_out_channels, self.classifier.embed_dim))
        self.distillation = MODELS.build({"type": RegionDistillationLoss, "weight": 0.25, **(distillation or {})})
        self.relation = MODELS.build({"type": RelationDistillationLoss, **(relation or {})})
        self.classification = MODELS.build({"type": AsymmetricLoss, "weight": 16.0, "warmup": 1000,
                                            **(classification or {})})

    def forward(self, features: Tensor) -> Tensor:
        """RoI features ``[R, channels, h, w]`` to unit embeddings, float32 ``[R, D]``."""
        return F.normalize(self.layers(features.flatten(1)).float(), dim=-1)

    def loss(self, features: Tensor, teacher_RD: Tensor, labels_RC: Tensor) -> dict[str, Tensor]:
        """The three losses; zeros that depend on all parameters where there are no blocks.

        Args:
            teacher_RD: CLIP's unit embeddings of the blocks.
            labels_RC: bool, which base classes are in them.
        """
        student_RD = self(features)
        return {"loss_block_distill": self.distillation(student_RD, teacher_RD),
                "loss_block_relation": self.relation(student_RD, teacher_RD),
                "loss_block_cls": self.classification(self.classifier(student_RD), labels_RC)}


@MODELS.register_module()
class GlobalHead(BaseModule):
    """Mean of a feature level and a projection to CLIP's space; learns CLIP's embedding of the image and its classes.

    Args:
        classifier: Config of a :class:`~ovd.models.oadp.multi_label.MultiLabelClassifier`.
        distillation: Config of an :class:`~ovd.models.oadp.losses.ImageDistillationLoss`.
        classification: Config of an :class:`~ovd.models.oadp.losses.AsymmetricLoss`.
    """

    def __init__(self, classifier: dict, in_channels: int = 256, distillation: dict | None = None,
                 classification: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg or XAVIER)
        self.classifier = MODELS.build({"type": MultiLabelClassifier, **classifier})
        self.projection = nn.Linear(in_channels, self.classifier.embed_dim)
        self.distillation = MODELS.build({"type": ImageDistillationLoss, **(distillation or {})})
        self.classification = MODELS.build({"type": AsymmetricLoss, "weight": 4.0, "warmup": 2000, "clip": 0.05,
                                            **(classification or {})})

    def forward(self, level: Tensor) -> Tensor:
        """A feature level ``[N, channels, h, w]`` to unit embeddings, float32 ``[N, D]``."""
        return F.normalize(self.projection(level.mean(dim=(2, 3))).float(), dim=-1)

    def loss(self, level: Tensor, teacher_ND: Tensor, labels_NC: Tensor) -> dict[str, Tensor]:
        """Both losses.

        Args:
            teacher_ND: CLIP's unit embeddings of the images.
            labels_NC: bool, which base classes are in them.
        """
        student_ND = self(level)
        return {"loss_global_distill": self.distillation(student_ND, teacher_ND),
                "loss_global_cls": self.classification(self.classifier(student_ND), labels_NC)}
