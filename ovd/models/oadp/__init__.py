"""OADP: distillation from objects, blocks and whole images (Wang et al., CVPR 2023)."""

from ovd.models.oadp.heads import BlockHead, GlobalHead
from ovd.models.oadp.losses import AsymmetricLoss, ImageDistillationLoss, RelationDistillationLoss
from ovd.models.oadp.multi_label import MultiLabelClassifier
from ovd.models.oadp.roi_head import OADPRoIHead

__all__ = ["AsymmetricLoss", "BlockHead", "GlobalHead", "ImageDistillationLoss", "MultiLabelClassifier", "OADPRoIHead",
           "RelationDistillationLoss"]
