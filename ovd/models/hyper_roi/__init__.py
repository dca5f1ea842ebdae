"""ViLD whose added classes are made from boxes by a network, as unit vectors in CLIP's space beside those of names."""

from ovd.models.hyper_roi.codes import ResidualCodes
from ovd.models.hyper_roi.detector import HyperViLD
from ovd.models.hyper_roi.episode_loss import EpisodeLoss

__all__ = ["EpisodeLoss", "HyperViLD", "ResidualCodes"]
