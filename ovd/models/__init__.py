"""Detectors, RoI heads, classifiers and losses."""

import ovd.engine.weights  # noqa: F401  (init_cfg type="Pretrained" loads whole files or none)
from ovd.models.cascade import ViLDCascadeRoIHead
from ovd.models.classifier import CosineClassifier
from ovd.models.clip_backbone import ClipResNet, clip_normalisation
from ovd.models.crop_clip import CropClip, PlainImages
from ovd.models.dense_clip import DenseClipScore
from ovd.models.hyper_roi import EpisodeLoss, HyperViLD, ResidualCodes
from ovd.models.losses import RegionDistillationLoss
from ovd.models.oadp import BlockHead, GlobalHead, OADPRoIHead
from ovd.models.proposers import NetworkProposer
from ovd.models.sylph import CodeFCOSHead, SylphFCOS
from ovd.models.tfa import CosineLinear, FineTunedFasterRCNN, FineTunedFCOSHead
from ovd.models.torchvision_proposer import TorchvisionProposer
from ovd.models.vild import ViLD
from ovd.models.vild_head import ViLDBBoxHead, ViLDImageHead
from ovd.models.vild_roi_head import ViLDRoIHead

__all__ = ["BlockHead", "ClipResNet", "CodeFCOSHead", "CosineClassifier", "CosineLinear", "CropClip", "DenseClipScore",
           "EpisodeLoss", "FineTunedFCOSHead", "FineTunedFasterRCNN", "GlobalHead", "HyperViLD", "NetworkProposer",
           "OADPRoIHead", "PlainImages", "RegionDistillationLoss", "ResidualCodes", "SylphFCOS", "TorchvisionProposer",
           "ViLD", "ViLDBBoxHead", "ViLDCascadeRoIHead", "ViLDImageHead", "ViLDRoIHead", "clip_normalisation"]
